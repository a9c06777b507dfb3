"""A script that reads a MATLAB file with scipy, in a process of its own with limits.

Its argument is a JSON object with the arguments of `main`. It writes the variables to stdout as one JSON object. Where
that fails, the last line of stderr is the reason. It imports nothing of this package, so that it starts in 0.3 s.
"""

import json
import resource
import sys
from typing import Any

import numpy as np
from scipy.io import loadmat, whosmat
from scipy.io.matlab import MatlabFunction, MatlabObject, MatlabOpaque


def main(
    path: str, variable_names: list[str], *, squeeze: bool, max_bytes: int, max_json_bytes: int, max_cpu_s: int
) -> None:
    """Write these variables of the file at `path` to stdout."""
    _limit_resource(resource.RLIMIT_CORE, 0)
    _limit_resource(resource.RLIMIT_CPU, max_cpu_s)
    if sys.platform == "linux":  # other systems do not enforce it
        _limit_resource(resource.RLIMIT_AS, max_bytes)
    try:
        names = [name for name, _, _ in whosmat(path)]
        for name in variable_names:
            if names.count(name) != 1:
                raise ValueError(f"it has {name} twice" if name in names else f"it has no {name}")
        found = loadmat(path, variable_names=variable_names, struct_as_record=False, squeeze_me=squeeze)
        plain = {name: convert_to_plain(found[name]) for name in variable_names}
        text = json.dumps(plain, separators=(",", ":"), default=str)  # complex numbers become text
        if len(text) > max_json_bytes:
            raise ValueError(f"it holds more than {max_json_bytes / 1e6:,.0f} MB as text")
    except MemoryError:
        sys.exit(f"it takes more than {max_bytes / 1e6:,.0f} MB of memory")
    except Exception as error:  # scipy raises its own mixture for damaged files
        sys.exit(f"{type(error).__name__}: {error}")
    sys.stdout.write(text)


def convert_to_plain(value: Any) -> Any:
    """A struct as a dict, an array as nested lists.

    Raises:
        ValueError: there is an object, a function or a sparse array.
    """
    if hasattr(value, "_fieldnames"):
        return {name: convert_to_plain(getattr(value, name)) for name in value._fieldnames}
    if isinstance(value, MatlabFunction | MatlabObject | MatlabOpaque) or type(value).__module__.startswith("scipy"):
        raise ValueError(f"it has a {type(value).__name__}")
    if isinstance(value, np.ndarray) and value.dtype == object:
        return [convert_to_plain(item) for item in value]
    return value.tolist() if isinstance(value, np.ndarray | np.generic) else value


def _limit_resource(kind: int, limit: int) -> None:
    """Lower the soft limit: at that of the CPU time the signal is SIGXCPU, at the hard one SIGKILL."""
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))

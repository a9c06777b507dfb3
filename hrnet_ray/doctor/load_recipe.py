"""Read an experiment's page. A program: `python -m hrnet_ray.doctor.load_recipe PAGE`.

A page is Python, and whoever names it wants it run; in a process of its own it can neither hang nor
end the doctor. Prints one line of JSON, or one line of what is wrong on stderr.
"""

import json
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from hrnet_ray.config import Experiment, flatten
from hrnet_ray.errors import HrnetRayError


def read(path: Path) -> dict[str, Any]:
    """The settings of its BASE, and how many of them its SPACE searches.

    Raises:
        ValueError: it has no BASE.
        UsageError: its SPACE cannot be searched.
    """
    sys.path.insert(0, str(path.parent))  # as `python PAGE` has it
    page = runpy.run_path(str(path), run_name="page")
    if not isinstance(page.get("BASE"), Experiment):
        raise ValueError("it has no `BASE = Experiment(...)`")
    if space := page.get("SPACE"):
        from hrnet_ray.distributed.tuning.samplers import (
            check_space,  # Ray: where it is in use anyway
        )

        check_space(page["BASE"], space)
    return {"settings": flatten(page["BASE"]), "searched": len(space or {})}


def line_of(error: BaseException, path: Path) -> int:
    """Where in the page it went wrong; 1 where that cannot be told."""
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((at.lineno or 1 for at in reversed(frames) if at.filename == str(path)), 1)


def main(path: Path) -> None:
    """Read and print."""
    try:
        print("\n" + json.dumps(read(path)))
    except Exception as error:  # a page is anybody's code
        said = f"{error.what}, {error.where}" if isinstance(error, HrnetRayError) else str(error)
        said = f"{type(error).__name__}: {' '.join(said.split())}"
        sys.exit(f"\n{json.dumps({'line': line_of(error, path), 'said': said})}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""An ONNX file of the user's as a function of pictures. It is from elsewhere, and not trusted.

What it can do is arithmetic: it names no files but weights in its own folder, which onnxruntime
sees to from 1.24 on. It may still ask for much memory, or for a long time.
"""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from joblib import cpu_count

from hrnet_ray.data.annotations import check_file, shown
from hrnet_ray.errors import DataError, UsageError, shortened

Answers = Mapping[str, np.ndarray]
"""What a net answers, by the names that it gives."""

FLAG = "--detector"
SIDE = 640
"""Of a picture, in pixels, where the file leaves it open."""
SHORTEST_SIDE, LONGEST_SIDE = 32, 4096
MOST_BYTES = 2**31
"""No ONNX file is longer: weights beyond that lie beside it."""

_NUMBERS = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_FATAL = 4
"""Of onnxruntime's log: what is wrong comes as an exception as well."""
_EXPORT = "export the detector as ONNX once more, for one picture of three colours at a time"


class Net:
    """A net that takes one picture."""

    input_hw: tuple[int, int]
    metadata: Mapping[str, str]
    """What its maker wrote into the file."""
    device: str
    """`cuda`, or `cpu` also where onnxruntime has no CUDA."""

    def __init__(self, path: Path, *, device: str | torch.device = "cpu") -> None:
        """Open the file.

        Raises:
            UsageError: onnxruntime is not installed.
            DataError: the file is missing or damaged, or takes something else than a picture.
        """
        check_file(path, FLAG)
        onnxruntime = _onnxruntime(path)
        self.path = path
        try:
            if path.stat().st_size > MOST_BYTES:
                raise ValueError("larger than an ONNX file can be")
            self._session = _session(onnxruntime, path, torch.device(device).type)
            self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
            self._input, self._dtype, self.input_hw = _input(self._session.get_inputs())
            self._outputs = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # onnxruntime's own have no parent of their own
            raise self.refused("a detector that cannot be loaded", error, _EXPORT) from error
        cuda = "CUDAExecutionProvider" in self._session.get_providers()
        self.device = "cuda" if cuda else "cpu"

    def __call__(self, planes: np.ndarray) -> Answers:
        """Run it on float32 [3, H, W] of `input_hw`.

        Raises:
            DataError: it fails, or answers something else than numbers.
        """
        try:
            found = self._session.run(
                self._outputs, {self._input: planes[None].astype(self._dtype)}
            )
            for name, array in zip(self._outputs, found, strict=True):
                if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                    raise ValueError(f"{shown(name)} is no array of numbers")
        except Exception as error:  # as above
            raise self.refused("a detector that fails as it is run", error, _EXPORT) from error
        return dict(zip(self._outputs, found, strict=True))

    def refused(self, what: str, why: object, fix: str) -> DataError:
        """The error that says what is wrong with the file."""
        return DataError(what, f"{FLAG} {self.path}: {' '.join(str(why).split())[:300]}", fix)


def described(answers: Answers) -> str:
    """The shapes of all outputs, as an error names them."""
    return shortened([f"{shown(name)} {list(array.shape)}" for name, array in answers.items()])


def _onnxruntime(path: Path) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "a package that a detector needs cannot be imported",
            f"{FLAG} {path}: onnxruntime ({error})",
            'pip install "hrnet-ray[export]", or give --boxes',
        ) from error
    return onnxruntime


def _session(onnxruntime: ModuleType, path: Path, device: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = cpu_count()  # as a container may use them
    # Threads that spin between two pictures would take the processors from the pose model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    there = onnxruntime.get_available_providers()
    providers = [name for name in _PROVIDERS.get(device, _PROVIDERS["cpu"]) if name in there]
    # It prints of its second attempt, which only a missing CUDA is a reason for.
    again = len(providers) > 1
    return onnxruntime.InferenceSession(
        str(path), options, providers=providers, enable_fallback=again
    )


def _input(inputs: list[Any]) -> tuple[str, type, tuple[int, int]]:
    """Name, numbers and size of the only input.

    Raises:
        ValueError: it is no picture of three colours, or there are more inputs.
    """
    if len(inputs) != 1:
        raise ValueError(f"{len(inputs)} inputs, where one picture is wanted")
    (only,) = inputs
    sides = [side if isinstance(side, int) else None for side in only.shape]  # None: any
    if len(sides) != 4 or sides[0] not in (1, None) or sides[1] not in (3, None):
        raise ValueError(f"takes {shown(only.shape)}, where [1, 3, height, width] is wanted")
    if only.type not in _NUMBERS:
        raise ValueError(f"takes {shown(only.type)}, where tensor(float) is wanted")
    height, width = (SIDE if side is None else side for side in sides[2:])
    if not all(SHORTEST_SIDE <= side <= LONGEST_SIDE for side in (height, width)):
        allowed = f"where {SHORTEST_SIDE} to {LONGEST_SIDE} pixels are possible"
        raise ValueError(f"takes pictures of {height} x {width}, {allowed}")
    return only.name, _NUMBERS[only.type], (height, width)

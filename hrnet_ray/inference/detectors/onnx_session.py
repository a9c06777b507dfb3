"""An ONNX file of the user's as a function of images. It is from elsewhere, and not trusted.

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

from hrnet_ray.data.annotations import format_value, require_file
from hrnet_ray.errors import DataError, UsageError, format_list

ModelOutputs = Mapping[str, np.ndarray]
"""What a net answers, by the names that it gives."""

DETECTOR_FLAG = "--detector"
DEFAULT_SIDE_PX = 640
"""Of an image, in pixels, where the file leaves it open."""
MIN_SIDE_PX, MAX_SIDE_PX = 32, 4096
MAX_FILE_BYTES = 2**31
"""No ONNX file is longer: weights beyond that lie beside it."""

_INPUT_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
}
_FATAL_SEVERITY = 4
"""Of onnxruntime's log: what is wrong comes as an exception as well."""
_EXPORT_HINT = "export the detector as ONNX once more, for one image of three colours at a time"


class OnnxModel:
    """A net that takes one image."""

    input_hw: tuple[int, int]
    metadata: Mapping[str, str]
    """What its maker wrote into the file."""
    device: str
    """`cuda`, or `cpu` also where onnxruntime has no CUDA."""

    def __init__(self, path: Path, *, device: str | torch.device = "cpu") -> None:
        """Open the file.

        Raises:
            UsageError: onnxruntime is not installed.
            DataError: the file is missing or damaged, or takes something else than an image.
        """
        require_file(path, DETECTOR_FLAG)
        onnxruntime = _import_onnxruntime(path)
        self.path = path
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ValueError("larger than an ONNX file can be")
            self._session = _create_session(onnxruntime, path, torch.device(device).type)
            self.metadata = dict(self._session.get_modelmeta().custom_metadata_map)
            self._input_name, self._dtype, self.input_hw = _parse_input_spec(self._session.get_inputs())
            self._output_names = [output.name for output in self._session.get_outputs()]
        except Exception as error:  # onnxruntime's own have no parent of their own
            raise self.make_file_error("a detector that cannot be loaded", error, _EXPORT_HINT) from error
        cuda = "CUDAExecutionProvider" in self._session.get_providers()
        self.device = "cuda" if cuda else "cpu"

    def __call__(self, input_array: np.ndarray) -> ModelOutputs:
        """Run it on float32 [3, H, W] of `input_hw`.

        Raises:
            DataError: it fails, or answers something else than numbers.
        """
        try:
            found = self._session.run(self._output_names, {self._input_name: input_array[None].astype(self._dtype)})
            for name, array in zip(self._output_names, found, strict=True):
                if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
                    raise ValueError(f"{format_value(name)} is no array of numbers")
        except Exception as error:  # as above
            raise self.make_file_error("a detector that fails as it is run", error, _EXPORT_HINT) from error
        return dict(zip(self._output_names, found, strict=True))

    def make_file_error(self, problem: str, reason: object, fix: str) -> DataError:
        """Make the error that explains what is wrong with the file."""
        return DataError(problem, f"{DETECTOR_FLAG} {self.path}: {' '.join(str(reason).split())[:300]}", fix)


def format_shapes(outputs: ModelOutputs) -> str:
    """The shapes of all outputs, as an error names them."""
    return format_list([f"{format_value(name)} {list(array.shape)}" for name, array in outputs.items()])


def _import_onnxruntime(path: Path) -> ModuleType:
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(
            "a package that a detector needs cannot be imported",
            f"{DETECTOR_FLAG} {path}: onnxruntime ({error})",
            'pip install "hrnet-ray[export]", or give --boxes',
        ) from error
    return onnxruntime


def _create_session(onnxruntime: ModuleType, path: Path, device: str) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL_SEVERITY
    options.intra_op_num_threads = cpu_count()  # as a container may use them
    # Threads that spin between two images would take the processors from the pose model.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")
    there = onnxruntime.get_available_providers()
    providers = [name for name in _PROVIDERS.get(device, _PROVIDERS["cpu"]) if name in there]
    # It prints of its second attempt, which only a missing CUDA is a reason for.
    again = len(providers) > 1
    return onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=again)


def _parse_input_spec(inputs: list[Any]) -> tuple[str, type, tuple[int, int]]:
    """Name, numbers and size of the only input.

    Raises:
        ValueError: it is no image of three colours, or there are more inputs.
    """
    if len(inputs) != 1:
        raise ValueError(f"{len(inputs)} inputs, where one image is wanted")
    (only,) = inputs
    sides = [side if isinstance(side, int) else None for side in only.shape]  # None: any
    if len(sides) != 4 or sides[0] not in (1, None) or sides[1] not in (3, None):
        raise ValueError(f"takes {format_value(only.shape)}, where [1, 3, height, width] is wanted")
    if only.type not in _INPUT_DTYPES:
        raise ValueError(f"takes {format_value(only.type)}, where tensor(float) is wanted")
    height, width = (DEFAULT_SIDE_PX if side is None else side for side in sides[2:])
    if not all(MIN_SIDE_PX <= side <= MAX_SIDE_PX for side in (height, width)):
        allowed = f"where {MIN_SIDE_PX} to {MAX_SIDE_PX} pixels are possible"
        raise ValueError(f"takes images of {height} x {width}, {allowed}")
    return only.name, _INPUT_DTYPES[only.type], (height, width)

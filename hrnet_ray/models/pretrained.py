"""Load pretrained weights, and report by name the tensors that were not loaded.

Supported are the published pose and ImageNet checkpoints, mmpose 0.x and 1.x, timm, and those of
this project, as .safetensors, .pt or .pth. `safe_loading` reads them without running their code.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hrnet_ray.errors import DataError, format_list
from hrnet_ray.models.hrnet import init_weights
from hrnet_ray.models.safe_loading import (
    format_load_error,
    load_pickle_weights_only,
    load_safetensors,
)

MIN_MATCHED_FRAC = 0.9  # of the tensors outside the head; a lower fraction indicates another architecture
HEAD_PREFIX = "final_layer."
WEIGHTS_FILE_NAME = "model.safetensors"  # in a run's model/ folder
WRAPPER_KEYS = ("state_dict", "model")  # in this order: "model" is a string in the published files
KEY_PREFIX_PATTERN = re.compile(r"^(?:module\.|_orig_mod\.|model\.|backbone\.|(?:keypoint_)?head\.(?=final_layer\.))+")
# Extra tensors of an ImageNet classifier. The last module of a pose model outputs branch 0 only.
CLASSIFIER_KEY_PATTERN = re.compile(r"^(?:incre_modules|downsamp_modules|classifier|stage4\.\d+\.fuse_layers\.[1-3])\.")


@dataclass(frozen=True)
class LoadReport:
    """Result of loading each tensor, by its name in the model."""

    source: str
    matched: list[str]
    """Loaded tensors."""
    missing: list[str]
    """In the model, not in the file; unchanged."""
    unexpected: list[str]
    """In the file, not in the model."""
    mismatched: list[str]
    """In both, with different shapes; unchanged, except for a head, which is initialized again."""

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{self.source}: {len(self.matched):,} of {total:,} tensors loaded"]
        if self.mismatched:
            new_head = any(name.startswith(HEAD_PREFIX) for name in self.mismatched)
            note = ", head initialized" if new_head else ""
            parts.append(f"{_format_counted_names(self.mismatched)} of another shape{note}")
        if self.missing:
            parts.append(f"{_format_counted_names(self.missing)} not in the file")
        if self.unexpected:
            parts.append(f"{_format_counted_names(self.unexpected)} not in the model")
        return "; ".join(parts)


def load_pretrained(model: nn.Module, path: str | PathLike[str], *, allow_partial: bool = False) -> LoadReport:
    """Copy the weights in `path` into `model` where name and shape agree.

    For a folder, its `model.safetensors` is loaded; a `config.json` beside a .safetensors file
    states the expected sha256. A head with another number of keypoints is initialized again.

    Raises:
        DataError: the file cannot be read or holds NaN, or fewer than 90 % of the tensors outside
            the head match and `allow_partial` is false. The model is then unchanged.
    """
    path = Path(path)
    path = path / WEIGHTS_FILE_NAME if path.is_dir() else path
    file_tensors = _rename_tensors(_read_weight_file(path), path)
    model_tensors = model.state_dict()
    report = _compare_tensors(file_tensors, model_tensors, source=str(path))
    if not allow_partial:
        _require_min_matched(report, file_tensors, model_tensors)
    _require_finite(report, file_tensors)
    model.load_state_dict({name: file_tensors[name] for name in report.matched}, strict=False)
    if any(name.startswith(HEAD_PREFIX) for name in report.mismatched):
        model.get_submodule(HEAD_PREFIX.rstrip(".")).apply(init_weights)
    return report


def _compare_tensors(
    file_tensors: Mapping[str, Tensor], model_tensors: Mapping[str, Tensor], *, source: str
) -> LoadReport:
    shared = [name for name in model_tensors if name in file_tensors]
    differing = {name for name in shared if file_tensors[name].shape != model_tensors[name].shape}
    if any(name.startswith(HEAD_PREFIX) for name in differing):  # the head is loaded as a whole
        differing |= {name for name in shared if name.startswith(HEAD_PREFIX)}
    return LoadReport(
        source=source,
        matched=[name for name in shared if name not in differing],
        missing=[name for name in model_tensors if name not in file_tensors],
        unexpected=[name for name in file_tensors if name not in model_tensors],
        mismatched=[name for name in shared if name in differing],
    )


def _require_min_matched(
    report: LoadReport, file_tensors: Mapping[str, Tensor], model_tensors: Mapping[str, Tensor]
) -> None:
    total, matched = (len(_select_body_names(names)) for names in (model_tensors, report.matched))
    if matched >= MIN_MATCHED_FRAC * total:
        return
    differences = [
        *(
            f"{name} is {_format_shape(file_tensors[name])}, expected {_format_shape(model_tensors[name])}"
            for name in _select_body_names(report.mismatched)
        ),
        *(f"{name} is missing" for name in _select_body_names(report.missing)),
        *(
            f"{name} is unknown"
            for name in _select_body_names(report.unexpected)
            if not CLASSIFIER_KEY_PATTERN.match(name)
        ),
    ]
    raise DataError(
        f"the weights match only {matched:,} of the {total:,} tensors outside the model's head",
        f"{report.source}: {format_list(differences, max_items=5)}",
        "use weights of the same architecture and width, or load the matching ones with --model.allow-partial-load",
    )


def _require_finite(report: LoadReport, file_tensors: Mapping[str, Tensor]) -> None:
    """Refuse NaN and Inf, as a diverged training leaves them."""
    nonfinite = [name for name in report.matched if not _is_finite(file_tensors[name])]
    if nonfinite:
        raise DataError(
            "the weights contain NaN or Inf",
            f"{report.source}: {format_list(nonfinite)}",
            "use a checkpoint from before the training diverged",
        )


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _select_body_names(names: Iterable[str]) -> list[str]:
    """Select tensors outside the head; `num_batches_tracked` is unused and missing in old files."""
    return [name for name in names if not name.startswith(HEAD_PREFIX) and not name.endswith("num_batches_tracked")]


def _read_weight_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError("there is no such weight file", str(path), "check the path")
    try:
        content = load_safetensors(path) if path.suffix == ".safetensors" else load_pickle_weights_only(path)
    except Exception as error:  # a damaged file may raise any error: IndexError, struct.error, ...
        raise DataError(
            "the weight file cannot be read safely",
            f"{path}: {format_load_error(error)}",
            "use a .safetensors file, or a .pth file with tensors only",
        ) from error
    tensors = {
        name: value
        for name, value in _unwrap_state_dict(content).items()
        if isinstance(name, str) and isinstance(value, Tensor) and _is_plain_tensor(value)
    }
    if not tensors:
        raise DataError(
            "the file holds no weights",
            f"{path}: a {type(content).__name__} without named tensors",
            "use a file with a state_dict",
        )
    return tensors


def _is_plain_tensor(tensor: Tensor) -> bool:
    """Return whether a tensor can be a weight: dense, on the CPU, neither quantized nor complex."""
    dense = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return dense and not tensor.is_quantized and not tensor.is_complex()


def _unwrap_state_dict(content: Any) -> Mapping[Any, Any]:
    for wrapper in WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content if isinstance(content, Mapping) else {}


def _rename_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        first = renamed.setdefault(_normalize_tensor_name(name), tensor)
        if first is not tensor and not torch.equal(first, tensor):
            raise DataError(
                "the file holds two sets of weights with the same names",
                f"{path}: {name} also has another prefix",
                "use a file with one state_dict",
            )
    return renamed


def _normalize_tensor_name(name: str) -> str:
    """Remove the prefixes of DDP, torch.compile, Lightning and mmpose from a published name."""
    return KEY_PREFIX_PATTERN.sub("", name)


def _format_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _format_counted_names(names: list[str]) -> str:
    return f"{len(names):,} ({format_list(names, max_items=2)})"

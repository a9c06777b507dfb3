"""Load pretrained weights, and report by name what did not fit.

Read: the published pose and ImageNet checkpoints, mmpose 0.x and 1.x, timm, and this project's own,
as .safetensors or as .pt / .pth; `safe_files` reads them, and runs no code of theirs.
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

MIN_MATCHED_FRAC = 0.9  # of the tensors outside the head; fewer is another net, not another training
HEAD_PREFIX = "final_layer."
WEIGHTS_FILE_NAME = "model.safetensors"  # in a run's model/ folder
WRAPPER_KEYS = (
    "state_dict",
    "model",
)  # in this order: in the published files "model" is only a name
KEY_PREFIX_PATTERN = re.compile(r"^(?:module\.|_orig_mod\.|model\.|backbone\.|(?:keypoint_)?head\.(?=final_layer\.))+")
# An ImageNet classifier has these besides; a pose net fuses into branch 0 alone at the end.
CLASSIFIER_KEY_PATTERN = re.compile(r"^(?:incre_modules|downsamp_modules|classifier|stage4\.\d+\.fuse_layers\.[1-3])\.")


@dataclass(frozen=True)
class LoadReport:
    """What became of each tensor, by the name it has in the model."""

    source: str
    matched: list[str]
    """Loaded."""
    missing: list[str]
    """In the model, not in the file: left as they were."""
    unexpected: list[str]
    """In the file, not in the model."""
    mismatched: list[str]
    """In both, with another shape. Left as they were; but a head that differs starts afresh."""

    def __str__(self) -> str:
        total = len(self.matched) + len(self.missing) + len(self.mismatched)
        parts = [f"{self.source}: {len(self.matched):,} of {total:,} tensors loaded"]
        if self.mismatched:
            afresh = any(name.startswith(HEAD_PREFIX) for name in self.mismatched)
            note = ", head initialised afresh" if afresh else ""
            parts.append(f"{_format_counted_names(self.mismatched)} of another shape{note}")
        if self.missing:
            parts.append(f"{_format_counted_names(self.missing)} not in the file")
        if self.unexpected:
            parts.append(f"{_format_counted_names(self.unexpected)} not in the model")
        return "; ".join(parts)


def load_pretrained(model: nn.Module, path: str | PathLike[str], *, allow_partial: bool = False) -> LoadReport:
    """Copy the weights in `path` into `model`, wherever name and shape agree.

    A folder stands for the `model.safetensors` in it; a `config.json` beside such a file has the
    sha256 that it must have. A head for another number of keypoints is initialised afresh.

    Raises:
        DataError: the file cannot be read, or holds NaN, or less than 90 % of the tensors outside
            the head fit, unless `partial`; the model is then as it was.
    """
    path = Path(path)
    path = path / WEIGHTS_FILE_NAME if path.is_dir() else path
    found = _rename_tensors(_read_weight_file(path), path)
    wanted = model.state_dict()
    report = _compare_tensors(found, wanted, source=str(path))
    if not allow_partial:
        _require_min_matched(report, found, wanted)
    _require_finite(report, found)
    model.load_state_dict({name: found[name] for name in report.matched}, strict=False)
    if any(name.startswith(HEAD_PREFIX) for name in report.mismatched):
        model.get_submodule(HEAD_PREFIX.rstrip(".")).apply(init_weights)
    return report


def _compare_tensors(
    file_tensors: Mapping[str, Tensor], model_tensors: Mapping[str, Tensor], *, source: str
) -> LoadReport:
    shared = [name for name in model_tensors if name in file_tensors]
    differing = {name for name in shared if file_tensors[name].shape != model_tensors[name].shape}
    if any(name.startswith(HEAD_PREFIX) for name in differing):  # half a head is none
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
            f"{name} is {_format_shape(file_tensors[name])}, wanted {_format_shape(model_tensors[name])}"
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
        f"these weights fit only {matched:,} of the {total:,} tensors of the model's body",
        f"{report.source}: {format_list(differences, max_items=5)}",
        "check that the file is of this net and this width, or load what fits with partial=True",
    )


def _require_finite(report: LoadReport, file_tensors: Mapping[str, Tensor]) -> None:
    """Refuse what another training left when it diverged."""
    broken = [name for name in report.matched if not _is_finite(file_tensors[name])]
    if broken:
        raise DataError(
            "these weights are no numbers any more (NaN or infinite)",
            f"{report.source}: {format_list(broken)}",
            "give a file from before that training diverged",
        )


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _select_body_names(names: Iterable[str]) -> list[str]:
    """Leave out the head, and the counters that nothing reads and old files lack."""
    return [name for name in names if not name.startswith(HEAD_PREFIX) and not name.endswith("num_batches_tracked")]


def _read_weight_file(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError("there is no such weight file", str(path), "check the path")
    try:
        content = load_safetensors(path) if path.suffix == ".safetensors" else load_pickle_weights_only(path)
    except Exception as error:  # a damaged file fails in any way: IndexError, struct.error, ...
        raise DataError(
            "this is not a file of weights that can be read safely",
            f"{path}: {format_load_error(error)}",
            "give a .safetensors file, or a .pth file that holds tensors only",
        ) from error
    tensors = {
        name: value
        for name, value in _unwrap_state_dict(content).items()
        if isinstance(name, str) and isinstance(value, Tensor) and _is_plain_tensor(value)
    }
    if not tensors:
        raise DataError(
            "this file holds no weights",
            f"{path}: a {type(content).__name__} without named tensors",
            "give the file of a state_dict",
        )
    return tensors


def _is_plain_tensor(tensor: Tensor) -> bool:
    """Sparse, quantised, complex and empty-handed ("meta") tensors are weights of no HRNet."""
    strided = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return strided and not tensor.is_quantized and not tensor.is_complex()


def _unwrap_state_dict(content: Any) -> Mapping[Any, Any]:
    for wrapper in WRAPPER_KEYS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content if isinstance(content, Mapping) else {}


def _rename_tensors(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = found.setdefault(_normalize_tensor_name(name), tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise DataError(
                "a file of two nets: it is not clear which one to start from",
                f"{path}: {name} is there with another prefix, too",
                "give a file with one state_dict (the average of a training, say, by itself)",
            )
    return found


def _normalize_tensor_name(name: str) -> str:
    """Take off what DDP, torch.compile, Lightning and mmpose put before the published name."""
    return KEY_PREFIX_PATTERN.sub("", name)


def _format_shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _format_counted_names(names: list[str]) -> str:
    return f"{len(names):,} ({format_list(names, max_items=2)})"

"""Start from somebody's weights, and say by name what did not fit.

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

from hrnet_ray.errors import DataError, shortened
from hrnet_ray.models.hrnet import initialise
from hrnet_ray.models.safe_loading import read_safetensors, reason, unpickle

ENOUGH_FRAC = 0.9  # of the tensors outside the head; fewer is another net, not another training
HEAD = "final_layer."
OURS = "model.safetensors"  # in a run's model/ folder
WRAPPERS = ("state_dict", "model")  # in this order: in the published files "model" is only a name
PREFIXES = re.compile(
    r"^(?:module\.|_orig_mod\.|model\.|backbone\.|(?:keypoint_)?head\.(?=final_layer\.))+"
)
# An ImageNet classifier has these besides; a pose net fuses into branch 0 alone at the end.
CLASSIFIER_PARTS = re.compile(
    r"^(?:incre_modules|downsamp_modules|classifier|stage4\.\d+\.fuse_layers\.[1-3])\."
)


@dataclass(frozen=True)
class WeightsReport:
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
            afresh = any(name.startswith(HEAD) for name in self.mismatched)
            note = ", head initialised afresh" if afresh else ""
            parts.append(f"{_counted(self.mismatched)} of another shape{note}")
        if self.missing:
            parts.append(f"{_counted(self.missing)} not in the file")
        if self.unexpected:
            parts.append(f"{_counted(self.unexpected)} not in the model")
        return "; ".join(parts)


def load_weights(
    model: nn.Module, path: str | PathLike[str], *, partial: bool = False
) -> WeightsReport:
    """Copy the weights in `path` into `model`, wherever name and shape agree.

    A folder stands for the `model.safetensors` in it; a `config.json` beside such a file has the
    sha256 that it must have. A head for another number of keypoints is initialised afresh.

    Raises:
        DataError: the file cannot be read, or holds NaN, or less than 90 % of the tensors outside
            the head fit, unless `partial`; the model is then as it was.
    """
    path = Path(path)
    path = path / OURS if path.is_dir() else path
    found = _by_our_names(_read(path), path)
    wanted = model.state_dict()
    report = _compare(found, wanted, source=str(path))
    if not partial:
        _require_most(report, found, wanted)
    _require_numbers(report, found)
    model.load_state_dict({name: found[name] for name in report.matched}, strict=False)
    if any(name.startswith(HEAD) for name in report.mismatched):
        model.get_submodule(HEAD.rstrip(".")).apply(initialise)
    return report


def _compare(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], *, source: str
) -> WeightsReport:
    shared = [name for name in wanted if name in found]
    differing = {name for name in shared if found[name].shape != wanted[name].shape}
    if any(name.startswith(HEAD) for name in differing):  # half a head is none
        differing |= {name for name in shared if name.startswith(HEAD)}
    return WeightsReport(
        source=source,
        matched=[name for name in shared if name not in differing],
        missing=[name for name in wanted if name not in found],
        unexpected=[name for name in found if name not in wanted],
        mismatched=[name for name in shared if name in differing],
    )


def _require_most(
    report: WeightsReport, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> None:
    total, matched = (len(_body(names)) for names in (wanted, report.matched))
    if matched >= ENOUGH_FRAC * total:
        return
    differences = [
        *(
            f"{name} is {_shape(found[name])}, wanted {_shape(wanted[name])}"
            for name in _body(report.mismatched)
        ),
        *(f"{name} is missing" for name in _body(report.missing)),
        *(
            f"{name} is unknown"
            for name in _body(report.unexpected)
            if not CLASSIFIER_PARTS.match(name)
        ),
    ]
    raise DataError(
        f"these weights fit only {matched:,} of the {total:,} tensors of the model's body",
        f"{report.source}: {shortened(differences, most=5)}",
        "check that the file is of this net and this width, or load what fits with partial=True",
    )


def _require_numbers(report: WeightsReport, found: Mapping[str, Tensor]) -> None:
    """Refuse what another training left when it diverged."""
    broken = [name for name in report.matched if not _finite(found[name])]
    if broken:
        raise DataError(
            "these weights are no numbers any more (NaN or infinite)",
            f"{report.source}: {shortened(broken)}",
            "give a file from before that training diverged",
        )


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _body(names: Iterable[str]) -> list[str]:
    """Leave out the head, and the counters that nothing reads and old files lack."""
    return [
        name
        for name in names
        if not name.startswith(HEAD) and not name.endswith("num_batches_tracked")
    ]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise DataError("there is no such weight file", str(path), "check the path")
    try:
        content = read_safetensors(path) if path.suffix == ".safetensors" else unpickle(path)
    except Exception as error:  # a damaged file fails in any way: IndexError, struct.error, ...
        raise DataError(
            "this is not a file of weights that can be read safely",
            f"{path}: {reason(error)}",
            "give a .safetensors file, or a .pth file that holds tensors only",
        ) from error
    tensors = {
        name: value
        for name, value in _unwrapped(content).items()
        if isinstance(name, str) and isinstance(value, Tensor) and _is_plain(value)
    }
    if not tensors:
        raise DataError(
            "this file holds no weights",
            f"{path}: a {type(content).__name__} without named tensors",
            "give the file of a state_dict",
        )
    return tensors


def _is_plain(tensor: Tensor) -> bool:
    """Sparse, quantised, complex and empty-handed ("meta") tensors are weights of no HRNet."""
    strided = tensor.layout == torch.strided and tensor.device.type == "cpu"
    return strided and not tensor.is_quantized and not tensor.is_complex()


def _unwrapped(content: Any) -> Mapping[Any, Any]:
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    return content if isinstance(content, Mapping) else {}


def _by_our_names(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        known = found.setdefault(_our_name(name), tensor)
        if known is not tensor and not torch.equal(known, tensor):
            raise DataError(
                "a file of two nets: it is not clear which one to start from",
                f"{path}: {name} is there with another prefix, too",
                "give a file with one state_dict (the average of a training, say, by itself)",
            )
    return found


def _our_name(name: str) -> str:
    """Take off what DDP, torch.compile, Lightning and mmpose put before the published name."""
    return PREFIXES.sub("", name)


def _shape(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "a number"


def _counted(names: list[str]) -> str:
    return f"{len(names):,} ({shortened(names, most=2)})"

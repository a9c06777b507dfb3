"""An experiment is one frozen value, and each of its settings has one dotted name.

The command line (`--optim.lr 5e-4`), a search space (`{"optim.lr": ...}`) and MLflow's parameters
all use that name. `Experiment` is everything that decides the numbers; `Cluster` is where they are
made, and how fast.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

from hrnet_ray.errors import UsageError

T = TypeVar("T")

HEATMAP_STRIDE = 4  # crop pixels per heatmap cell: the stem of HRNet halves the crop twice
COARSEST_STRIDE = 32  # crop pixels per cell of the coarsest branch: both sides of a crop must be multiples of it


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which poses to learn from."""

    root: str = "data/atrw"
    """Folder that `hrnet-ray prepare` wrote: `train/` and `val/` shards and a manifest."""
    input_hw: tuple[int, int] = (256, 256)
    """Height and width of the crop that the model sees, in pixels."""
    padding: float = 1.25
    """How much larger than its box an instance is cut out."""

    def __post_init__(self) -> None:
        _validate_types(self, "data.")
        if any(side <= 0 or side % COARSEST_STRIDE for side in self.input_hw):
            _raise_invalid_setting("data.input_hw", self.input_hw, f"two multiples of {COARSEST_STRIDE}")
        _require_setting("data.padding", self.padding, self.padding >= 1, "1 or more")

    @property
    def heatmap_hw(self) -> tuple[int, int]:
        """Rows and columns of a heatmap."""
        height, width = self.input_hw
        return height // HEATMAP_STRIDE, width // HEATMAP_STRIDE


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which HRNet. `width` 32 and 48 with the other defaults are the published W32 and W48."""

    width: int = 32
    """Channels of the finest branch; each coarser one has twice as many."""
    modules: tuple[int, int, int] = (1, 4, 3)
    """Fused modules in the stages of 2, 3 and 4 branches."""
    blocks: int = 4
    """Residual blocks of a branch in a module."""
    stem: int = 64
    """Channels of the stem."""
    weight_init: Literal["normal", "kaiming"] = "normal"
    """Initial weights of convolutions: `normal` (deviation 0.001) as published, or `kaiming` (He et
    al., 2015), which learns sooner from scratch. The last layer is `normal` in both."""
    pretrained: str | None = None
    """Weights to start from: a published, mmpose, timm or own file."""
    allow_partial_load: bool = False
    """Accept a file that fills less than 90 % of the model."""

    def __post_init__(self) -> None:
        _validate_types(self, "model.")
        _require_setting("model.width", self.width, self.width >= 1, "1 or more")
        _require_setting("model.blocks", self.blocks, self.blocks >= 1, "1 or more")
        _require_setting("model.modules", self.modules, min(self.modules) >= 1, "three counts of 1 or more")
        _require_setting("model.stem", self.stem, self.stem >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """The target: one Gaussian per keypoint."""

    sigma: float = 2.0
    """Width of the Gaussian, in heatmap cells."""
    quantize_center: bool = True
    """Centre it on a cell, as published; False centres it on the point itself."""

    def __post_init__(self) -> None:
        _validate_types(self, "heatmap.")
        _require_setting("heatmap.sigma", self.sigma, self.sigma > 0, "more than 0")


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Strength of each augmentation of training crops. The defaults are the published values for MPII."""

    scale_factor: float = 0.25
    """Standard deviation of the relative scale, and its maximum change."""
    shift_factor: float = 0.0
    """Standard deviation of the shift of a crop, relative to its sides; the maximum is twice this value.
    0 as published; 0.04 makes a model robust to boxes that are not exact."""
    rotation_deg: float = 30.0
    """Standard deviation of the rotation; the maximum is twice this value."""
    rotation_prob: float = 0.6
    """Fraction of crops that are rotated."""
    flip_prob: float = 0.5
    """Fraction of crops that are mirrored, left and right exchanged."""
    half_body_prob: float = 0.0
    """Fraction of poses with enough visible keypoints that are cut to their upper or lower half."""
    half_body_min_visible: int = 9
    """Minimum number of visible keypoints; poses with fewer are not cut to half a body."""
    brightness: float = 0.0
    """Maximum difference of the factor from 1, as for contrast and saturation."""
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        _validate_types(self, "augment.")
        for name in ("rotation_prob", "flip_prob", "half_body_prob"):
            share = getattr(self, name)
            _require_setting(f"augment.{name}", share, 0 <= share <= 1, "between 0 and 1")
        _require_setting("augment.scale_factor", self.scale_factor, 0 <= self.scale_factor < 1, "in [0, 1)")
        _require_setting("augment.shift_factor", self.shift_factor, 0 <= self.shift_factor <= 0.25, "in [0, 0.25]")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move."""

    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    """Learning rate at its height, for batches of `lr_batch` where it scales with them."""
    lr_scaling: Literal["none", "linear", "sqrt"] = "none"
    """How the rate grows with the batch: not at all, or with batch_size / lr_batch or its root."""
    lr_reference_batch_size: int = 128
    """Batch for which `lr` was found."""
    weight_decay: float = 0.0
    """The published recipe names 1e-4 but never hands it to Adam; so 0 is the published value."""
    schedule: Literal["steps", "cosine"] = "steps"
    milestones: tuple[int, ...] | None = None
    """Epochs (counted from 0) that begin with a tenth of the rate, for `steps`; by default the
    published 170 and 200 of 210, or as far into as many epochs as there are."""
    warmup_steps: int = 0
    """Steps over which the rate climbs from almost nothing."""
    epochs: int = 210
    batch_size: int = 128
    """Crops per step, all workers together."""
    gradient_accumulation_steps: int = 1
    """Parts in which a worker takes its share of a batch: less memory, the same step but for
    BatchNorm, which sees a part."""
    max_grad_norm: float = 0.0
    """Length to which a longer gradient is cut; 0 never cuts."""
    ema_decay: float = 0.0
    """Decay of the weights' running average, such as 0.999; with it the average is judged and kept.
    0: none."""
    sync_batchnorm: bool = False
    """BatchNorm over all workers' crops; else, as published, over each worker's own."""
    loss: Literal["mse", "ohkm"] = "mse"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs that have it, fp32 on CPUs."""
    compile: bool = False
    """Let torch.compile fuse the net: minutes once, then quicker steps. Goes on without where it
    cannot."""

    def __post_init__(self) -> None:
        _validate_types(self, "optim.")
        _require_setting("optim.lr", self.lr, self.lr > 0, "more than 0")
        _require_setting("optim.epochs", self.epochs, self.epochs >= 1, "1 or more")
        for name in ("batch_size", "lr_reference_batch_size", "gradient_accumulation_steps"):
            _require_setting(f"optim.{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _require_setting("optim.max_grad_norm", self.max_grad_norm, self.max_grad_norm >= 0, "0 or more")
        _require_setting("optim.ema_decay", self.ema_decay, 0 <= self.ema_decay < 1, "in [0, 1)")

    @property
    def resolved_milestones(self) -> tuple[int, ...]:
        """The milestones, as given or by default."""
        if self.milestones is not None:
            return self.milestones
        return tuple(round(self.epochs * published / 210) for published in (170, 200))


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """How a validation crop becomes keypoints."""

    decode: Literal["argmax", "quarter", "dark"] = "quarter"
    flip_test: bool = True
    """Average with the prediction on the mirrored crop."""
    shift_heatmap: bool = True
    """Move the mirrored crop's heatmaps by one cell, which undoes the stride's bias."""
    val_interval: int = 1
    """Validate after each so many epochs, and always after the last."""
    batch_size: int = 64

    def __post_init__(self) -> None:
        _validate_types(self, "evaluation.")
        _require_setting("evaluation.val-interval", self.val_interval, self.val_interval >= 1, "1 or more")
        _require_setting("evaluation.batch_size", self.batch_size, self.batch_size >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class ExperimentConfig:
    """Everything that decides a run's numbers."""

    name: str = "w32"
    """Names the run. The same name and settings go on where they stopped."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    heatmap: HeatmapConfig = field(default_factory=HeatmapConfig)
    augment: AugmentationConfig = field(default_factory=AugmentationConfig)
    optim: OptimizerConfig = field(default_factory=OptimizerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _validate_types(self)
        plain = all(part and part not in (".", "..") for part in self.name.split("/"))
        _require_setting("name", self.name, plain, "a name that can be a folder")


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Where a run happens, and how fast."""

    num_workers: int = 1
    """Training workers of one run, each with a GPU of its own where there are GPUs."""
    min_workers: int | None = None
    """A run begins with so many too, and goes on with them when a node is lost; else, with all."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs when the cluster has them."""
    storage_path: str = "runs"
    """Folder for runs and checkpoints that every node can reach."""
    tracking_uri: str | None = None
    """MLflow server; without one, a database file in `storage`."""
    ray_address: str | None = None
    """A running Ray cluster; without one (and without RAY_ADDRESS), Ray starts on this machine."""
    resource_timeout_s: float = 0.0
    """How long to wait for machines. A cluster that can grow is asked for what the run needs, with
    `device` gpu for GPUs even if it has none yet."""
    max_failures: int = 3
    """How many lost workers a run survives."""
    log_sample_order: bool = False
    """Write the ids of each epoch's rows, step by step, to `data/order/` of the run."""

    def __post_init__(self) -> None:
        _validate_types(self, "cluster.")
        _require_setting("cluster.num_workers", self.num_workers, self.num_workers >= 1, "1 or more")
        _require_setting(
            "cluster.resource-timeout-s",
            self.resource_timeout_s,
            0 <= self.resource_timeout_s < math.inf,
            "0 or more seconds",
        )
        possible = 1 <= self.effective_min_workers <= self.num_workers
        _require_setting("cluster.min-workers", self.min_workers, possible, f"1 to {self.num_workers}")
        mounted = "://" not in self.storage_path
        _require_setting("cluster.storage-path", self.storage_path, mounted, "a folder that every node mounts")

    @property
    def effective_min_workers(self) -> int:
        """Workers without which a run cannot be."""
        return self.num_workers if self.min_workers is None else self.min_workers


def with_overrides(config: T, changes: Mapping[str, Any]) -> T:
    """Copy `config` with dotted settings changed: `override(e, {"optim.lr": 5e-4})`.

    Lists (as JSON gives them) become tuples.

    Raises:
        UsageError: there is no such setting (the nearest one is named), or it cannot be so.
    """
    for name, value in changes.items():
        plain = tuple(value) if isinstance(value, list) else value
        config = _replace_setting(config, name, name.split("."), plain)
    return config


def flatten_config(config: Any, prefix: str = "") -> dict[str, Any]:
    """List every setting under its dotted name."""
    flat: dict[str, Any] = {}
    for entry in fields(config):
        name, value = prefix + entry.name, getattr(config, entry.name)
        flat |= flatten_config(value, name + ".") if is_dataclass(value) else {name: value}
    return flat


def unflatten_config(cls: type[T], flat: Mapping[str, Any]) -> T:
    """The inverse of `flatten`."""
    return with_overrides(cls(), flat)


def diff_configs(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Name the settings in which two flattened configs differ: `optim.lr: 0.001 -> 0.002`."""
    missing = object()
    return [
        f"{name}: {old.get(name, 'unset')} -> {new.get(name, 'unset')}"
        for name in sorted(old.keys() | new.keys())
        if _convert_tuple_to_list(old.get(name, missing)) != _convert_tuple_to_list(new.get(name, missing))
    ]


def _convert_tuple_to_list(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _replace_setting(config: Any, name: str, path: Sequence[str], value: Any) -> Any:
    head, *rest = path
    known = list(getattr(config, "__dataclass_fields__", ()))
    if head not in known:
        hint = _suggest_setting(config, name, path)
        raise UsageError(f"no setting {name!r}", f"in {type(config).__name__}", hint)
    new = _replace_setting(getattr(config, head), name, rest, value) if rest else value
    return replace(config, **{head: new})  # re-runs __post_init__, so checks hold


def _suggest_setting(config: Any, name: str, path: Sequence[str]) -> str:
    if not is_dataclass(config):
        return f"{name.removesuffix('.' + path[0])!r} has no settings of its own"
    prefix = name.removesuffix(".".join(path))
    known = [prefix + key for key in flatten_config(config)]
    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"use one of {', '.join(known)}"


def _validate_types(config: Any, prefix: str = "") -> None:
    """Refuse a value of another type than its annotation; dataclasses do not check types."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if not _is_instance_of(value, entry.type):
            _raise_invalid_setting(prefix + entry.name, value, _describe_type(entry.type, value))


def _is_instance_of(value: Any, annotation: Any) -> bool:
    """Whether a value is of an annotation's kind. A whole number is a float, too; True is no 1."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return value in parts
    if origin is UnionType:
        return any(_is_instance_of(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if ... in parts else parts
        return len(value) == len(kinds) and all(map(_is_instance_of, value, kinds))
    if isinstance(value, bool):
        return annotation is bool
    return isinstance(value, (int, float) if annotation is float else annotation)


def _describe_type(annotation: Any, value: Any) -> str:
    """What is wanted instead; of words, the nearest one first."""
    if get_origin(annotation) is Literal:
        words = get_args(annotation)
        return " or ".join(get_close_matches(str(value), words, n=len(words), cutoff=0.0))
    plain = {int: "an int", float: "a number", bool: "True or False", str: "a text"}
    named = annotation.__name__ if isinstance(annotation, type) else annotation
    return plain.get(annotation) or f"a value of the kind {named}"


def _require_setting(name: str, value: Any, is_valid: bool, constraint: str) -> None:
    if not is_valid:
        _raise_invalid_setting(name, value, constraint)


def _raise_invalid_setting(name: str, value: Any, constraint: str) -> None:
    raise UsageError(f"{name} cannot be {value!r}", f"--{name} {value}", f"give {constraint}")

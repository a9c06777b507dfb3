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

HEATMAP_STRIDE = 4
"""Crop pixels per heatmap cell: HRNet's stem halves the picture twice."""

DEEPEST_STRIDE = 32
"""Crop pixels per cell of the coarsest branch: the sides of a crop are multiples of it."""


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
        _require_kinds(self, "data.")
        if any(side <= 0 or side % DEEPEST_STRIDE for side in self.input_hw):
            _refuse("data.input_hw", self.input_hw, f"two multiples of {DEEPEST_STRIDE}")
        _require("data.padding", self.padding, self.padding >= 1, "1 or more")

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
    init: str | None = None
    """Weights to start from: a published, mmpose, timm or own file."""
    init_partial: bool = False
    """Accept a file that fills less than 90 % of the model."""

    def __post_init__(self) -> None:
        _require_kinds(self, "model.")
        _require("model.width", self.width, self.width >= 1, "1 or more")
        _require("model.blocks", self.blocks, self.blocks >= 1, "1 or more")
        _require("model.modules", self.modules, min(self.modules) >= 1, "three counts of 1 or more")
        _require("model.stem", self.stem, self.stem >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """The target: one Gaussian per keypoint."""

    sigma: float = 2.0
    """Width of the Gaussian, in heatmap cells."""
    rounded: bool = True
    """Centre it on a cell, as published; False centres it on the point itself."""

    def __post_init__(self) -> None:
        _require_kinds(self, "heatmap.")
        _require("heatmap.sigma", self.sigma, self.sigma > 0, "more than 0")


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How a training crop differs from epoch to epoch."""

    scale_factor: float = 0.25
    """Standard deviation of the zoom, which is kept within 1 +- this."""
    rotation_deg: float = 30.0
    """Standard deviation of the turn, which is kept within twice this."""
    rotation_share: float = 0.6
    """Share of crops that are turned at all."""
    flip_share: float = 0.5
    """Share of crops that are mirrored, left and right exchanged."""
    half_body_share: float = 0.0
    """Share of well visible poses that are cut to their upper or lower half."""
    half_body_above: int = 8
    """Only poses with more visible keypoints than this are cut."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0

    def __post_init__(self) -> None:
        _require_kinds(self, "augment.")
        for name in ("rotation_share", "flip_share", "half_body_share"):
            share = getattr(self, name)
            _require(f"augment.{name}", share, 0 <= share <= 1, "between 0 and 1")
        _require("augment.scale_factor", self.scale_factor, 0 <= self.scale_factor < 1, "in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """How the weights move."""

    algorithm: Literal["adam", "adamw"] = "adam"
    lr: float = 1e-3
    """Learning rate at its height, for batches of `lr_batch` where it scales with them."""
    lr_per: Literal["none", "linear", "sqrt"] = "none"
    """How the rate grows with the batch: not at all, or with batch_size / lr_batch or its root."""
    lr_batch: int = 128
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
    accumulate: int = 1
    """Parts in which a worker takes its share of a batch: less memory, the same step but for
    BatchNorm, which sees a part."""
    clip_norm: float = 0.0
    """Length to which a longer gradient is cut; 0 never cuts."""
    ema: float = 0.0
    """Decay of the weights' running average, such as 0.999; with it the average is judged and kept.
    0: none."""
    sync_norm: bool = False
    """BatchNorm over all workers' crops; else, as published, over each worker's own."""
    loss: Literal["mse", "ohkm"] = "mse"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto`: bf16 autocast on GPUs that have it, fp32 on CPUs."""
    compile: bool = False
    """Let torch.compile fuse the net: minutes once, then quicker steps. Goes on without where it
    cannot."""

    def __post_init__(self) -> None:
        _require_kinds(self, "optim.")
        _require("optim.lr", self.lr, self.lr > 0, "more than 0")
        _require("optim.epochs", self.epochs, self.epochs >= 1, "1 or more")
        for name in ("batch_size", "lr_batch", "accumulate"):
            _require(f"optim.{name}", getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _require("optim.clip_norm", self.clip_norm, self.clip_norm >= 0, "0 or more")
        _require("optim.ema", self.ema, 0 <= self.ema < 1, "in [0, 1)")

    @property
    def drops(self) -> tuple[int, ...]:
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
    every: int = 1
    """Validate after each so many epochs, and always after the last."""
    batch_size: int = 64

    def __post_init__(self) -> None:
        _require_kinds(self, "evaluation.")
        _require("evaluation.every", self.every, self.every >= 1, "1 or more")
        _require("evaluation.batch_size", self.batch_size, self.batch_size >= 1, "1 or more")


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """Everything that decides a run's numbers."""

    name: str = "w32"
    """Names the run. The same name and settings go on where they stopped."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    heatmap: HeatmapConfig = field(default_factory=HeatmapConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    seed: int = 0

    def __post_init__(self) -> None:
        _require_kinds(self)
        plain = all(part and part not in (".", "..") for part in self.name.split("/"))
        _require("name", self.name, plain, "a name that can be a folder")


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where a run happens, and how fast."""

    workers: int = 1
    """Training workers of one run, each with a GPU of its own where there are GPUs."""
    min_workers: int | None = None
    """A run begins with so many too, and goes on with them when a node is lost; else, with all."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """`auto` takes GPUs when the cluster has them."""
    storage: str = "runs"
    """Folder for runs and checkpoints that every node can reach."""
    tracking_uri: str | None = None
    """MLflow server; without one, a database file in `storage`."""
    address: str | None = None
    """A running Ray cluster; without one (and without RAY_ADDRESS), Ray starts on this machine."""
    wait_s: float = 0.0
    """How long to wait for machines. A cluster that can grow is asked for what the run needs, with
    `device` gpu for GPUs even if it has none yet."""
    max_failures: int = 3
    """How many lost workers a run survives."""
    write_order: bool = False
    """Write the ids of each epoch's rows, step by step, to `data/order/` of the run."""

    def __post_init__(self) -> None:
        _require_kinds(self, "cluster.")
        _require("cluster.workers", self.workers, self.workers >= 1, "1 or more")
        _require("cluster.wait-s", self.wait_s, 0 <= self.wait_s < math.inf, "0 or more seconds")
        possible = 1 <= self.fewest <= self.workers
        _require("cluster.min-workers", self.min_workers, possible, f"1 to {self.workers}")
        mounted = "://" not in self.storage
        _require("cluster.storage", self.storage, mounted, "a folder that every node mounts")

    @property
    def fewest(self) -> int:
        """Workers without which a run cannot be."""
        return self.workers if self.min_workers is None else self.min_workers


def override(config: T, changes: Mapping[str, Any]) -> T:
    """Copy `config` with dotted settings changed: `override(e, {"optim.lr": 5e-4})`.

    Lists (as JSON gives them) become tuples.

    Raises:
        UsageError: there is no such setting (the nearest one is named), or it cannot be so.
    """
    for name, value in changes.items():
        plain = tuple(value) if isinstance(value, list) else value
        config = _replace_at(config, name, name.split("."), plain)
    return config


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """List every setting under its dotted name."""
    flat: dict[str, Any] = {}
    for entry in fields(config):
        name, value = prefix + entry.name, getattr(config, entry.name)
        flat |= flatten(value, name + ".") if is_dataclass(value) else {name: value}
    return flat


def unflatten(cls: type[T], flat: Mapping[str, Any]) -> T:
    """The inverse of `flatten`."""
    return override(cls(), flat)


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Name the settings in which two flattened configs differ: `optim.lr: 0.001 -> 0.002`."""
    missing = object()
    return [
        f"{name}: {one.get(name, 'unset')} -> {other.get(name, 'unset')}"
        for name in sorted(one.keys() | other.keys())
        if _plain(one.get(name, missing)) != _plain(other.get(name, missing))
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _replace_at(config: Any, name: str, path: Sequence[str], value: Any) -> Any:
    head, *rest = path
    known = list(getattr(config, "__dataclass_fields__", ()))
    if head not in known:
        hint = _nearest(config, name, path)
        raise UsageError(f"no setting {name!r}", f"in {type(config).__name__}", hint)
    new = _replace_at(getattr(config, head), name, rest, value) if rest else value
    return replace(config, **{head: new})  # re-runs __post_init__, so checks hold


def _nearest(config: Any, name: str, path: Sequence[str]) -> str:
    if not is_dataclass(config):
        return f"{name.removesuffix('.' + path[0])!r} has no settings of its own"
    prefix = name.removesuffix(".".join(path))
    known = [prefix + key for key in flatten(config)]
    if near := get_close_matches(name, known, n=1, cutoff=0.5):
        return f"did you mean {near[0]!r}?"
    return f"use one of {', '.join(known)}"


def _require_kinds(config: Any, prefix: str = "") -> None:
    """Refuse a value that is not of its annotation's kind; annotations alone stop nobody."""
    for entry in fields(config):
        value = getattr(config, entry.name)
        if not _is_a(value, entry.type):
            _refuse(prefix + entry.name, value, _kind_in_words(entry.type, value))


def _is_a(value: Any, kind: Any) -> bool:
    """Whether a value is of an annotation's kind. A whole number is a float, too; True is no 1."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return value in parts
    if origin is UnionType:
        return any(_is_a(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = parts[:1] * len(value) if ... in parts else parts
        return len(value) == len(kinds) and all(map(_is_a, value, kinds))
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _kind_in_words(kind: Any, value: Any) -> str:
    """What is wanted instead; of words, the nearest one first."""
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return " or ".join(get_close_matches(str(value), words, n=len(words), cutoff=0.0))
    plain = {int: "an int", float: "a number", bool: "True or False", str: "a text"}
    named = kind.__name__ if isinstance(kind, type) else kind
    return plain.get(kind) or f"a value of the kind {named}"


def _require(name: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        _refuse(name, value, wanted)


def _refuse(name: str, value: Any, wanted: str) -> None:
    raise UsageError(f"{name} cannot be {value!r}", f"--{name} {value}", f"give {wanted}")

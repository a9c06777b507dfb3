"""A trained model as a folder that anybody can use: weights, and what they need to be used rightly.

model.safetensors   weights, no pickle
config.json         skeleton, net, input, decoding; sha256 of the weights; scores
README.md           the model card, for people
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hrnet_ray.errors import DataError
from hrnet_ray.models import HRNet
from hrnet_ray.models.hrnet import COARSEST, branch_channels
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
SAFETENSORS = ".safetensors"
FINGERPRINTS = {WEIGHTS: "model.sha256", CONFIG: "config.sha256"}
"""How MLflow's tags name the sha256 of the files that decide what a model says."""

DECODES = ("argmax", "quarter", "dark")
LONGEST_SIDE = 4096
"""Of a crop, in pixels: a folder from elsewhere shall not ask for all memory there is."""
CONFIG_BYTES = 2**20

_NOT_OURS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),  # no such file, no such entries
    *(OverflowError, RecursionError),  # numbers and nesting that no config has
    *(RuntimeError, SafetensorError),  # weights that do not fit
)


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """Everything beside the weights that decides a prediction."""

    skeleton: Skeleton
    width: int
    modules: tuple[int, int, int]
    blocks: int
    stem: int
    input_hw: tuple[int, int]
    padding: float
    sigma: float
    decode: str
    flip_test: bool
    shift_heatmap: bool
    trained_on: str = ""
    """Name and digest of the data set."""
    scores: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        height, width = self.input_hw
        wrong = [
            name
            for name, right in (
                ("width", _whole(self.width, 1, 2048)),
                ("modules", len(self.modules) == 3 and all(_whole(m, 1, 99) for m in self.modules)),
                ("blocks", _whole(self.blocks, 1, 99)),
                ("stem", _whole(self.stem, 1, 4096)),
                ("input_hw", all(_whole(side, 1, LONGEST_SIDE) for side in (height, width))),
                ("input_hw", height % COARSEST == 0 == width % COARSEST),
                ("padding", _number(self.padding) and 0 < self.padding <= 100),
                ("sigma", _number(self.sigma) and 0 < self.sigma <= 1000),
                ("decode", self.decode in DECODES),
                ("flip_test", isinstance(self.flip_test, bool)),
                ("shift_heatmap", isinstance(self.shift_heatmap, bool)),
                ("trained_on", isinstance(self.trained_on, str)),
                ("scores", all(_number(score) for score in self.scores.values())),
            )
            if not right
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be {str(getattr(self, wrong[0]))[:80]}")

    def build(self) -> HRNet:
        """The net, with random weights."""
        return HRNet(
            self.width,
            len(self.skeleton),
            modules=self.modules,
            blocks=self.blocks,
            stem=self.stem,
        )


def save_model(folder: Path, model: nn.Module, spec: ModelSpec) -> None:
    """Write the three files; `config.json` vouches for the weights and comes after them.

    Raises:
        OSError: the disk is full, or does not work; the folder holds what it held before.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    entries = as_entries(spec) | {"sha256": sha256(weights).hexdigest()}
    files = {
        WEIGHTS: weights,
        CARD: _card(spec).encode(),
        CONFIG: json.dumps(entries, indent=2).encode(),
    }
    _replace(folder, files)


def as_entries(spec: ModelSpec) -> dict[str, Any]:
    """The spec as `config.json` has it."""
    return vars(spec) | {"skeleton": to_dict(spec.skeleton), "scores": dict(spec.scores)}


def load_model(path: Path) -> tuple[HRNet, ModelSpec]:
    """Read what `save_model` wrote: a folder, or a .safetensors file beside its `config.json`.

    Raises:
        DataError: files are missing, damaged, or do not belong together.
    """
    alone = path.suffix == SAFETENSORS
    folder, weights = (path.parent, path) if alone else (path, path / WEIGHTS)
    try:
        spec, digest = _read_config(folder / CONFIG)
        if sha256_of(weights) != digest:
            raise ValueError(f"{weights.name} is not the file that {CONFIG} was written for")
        tensors = load_file(weights)
        _require_size(spec, tensors)
        model = spec.build()
        model.load_state_dict(tensors)
    except _NOT_OURS as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            "a model that cannot be loaded",
            f"{path}: {' '.join(reason.split())[:200]}",
            f"give a folder with {CONFIG} and {WEIGHTS}, such as runs/<data set>/<run>/model",
        ) from error
    model.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, spec


def fingerprints(folder: Path) -> dict[str, str]:
    """The sha256 of the files that decide what a model says, by the names of their tags.

    Raises:
        OSError: a file is missing, or cannot be read.
    """
    return {tag: sha256_of(folder / name) for name, tag in FINGERPRINTS.items()}


def sha256_of(path: Path) -> str:
    """Hash a file as it is read."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _read_config(path: Path) -> tuple[ModelSpec, str]:
    """What a model is, and the sha256 of its weights."""
    with path.open("rb") as file:
        content = file.read(CONFIG_BYTES + 1)
    if len(content) > CONFIG_BYTES:
        raise ValueError(f"{CONFIG} is longer than a config can be")
    entries: dict[str, Any] = json.loads(content)
    digest = entries.pop("sha256")
    entries["skeleton"] = from_dict(entries["skeleton"], where=str(path))
    entries["modules"] = tuple(entries["modules"])
    entries["input_hw"] = tuple(entries["input_hw"])
    return ModelSpec(**entries), digest


def _require_size(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config of a far larger net than its weights, before that net is built."""
    numbers = blocks = 0
    for branches, modules in zip((2, 3, 4), spec.modules, strict=True):
        squares = sum(channels**2 for channels in branch_channels(spec.width, branches))
        numbers += modules * spec.blocks * 18 * squares  # two 3 x 3 convolutions a block
        blocks += modules * spec.blocks * branches
    numbers += 13 * spec.blocks * spec.stem**2 + 36 * spec.stem * spec.width
    have = sum(tensor.numel() for tensor in tensors.values())
    if numbers > have or blocks > len(tensors):
        raise ValueError(f"{CONFIG} describes a larger net than {WEIGHTS} holds")


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _replace(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all beside, then rename: nobody sees half a file, and a full disk spoils none."""
    beside = {name: folder / f"{name}.part" for name in files}
    try:
        for name, data in files.items():
            beside[name].write_bytes(data)
        for name, part in beside.items():
            part.replace(folder / name)
    finally:
        for part in beside.values():
            part.unlink(missing_ok=True)


def _card(spec: ModelSpec) -> str:
    height, width = spec.input_hw
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in spec.scores.items())
    return f"""# HRNet-W{spec.width} for {spec.skeleton.name}

{len(spec.skeleton)} keypoints from crops of {width} x {height} pixels.

Trained on {spec.trained_on or "data that nobody named"}. Validation scores of these weights:

| metric | value |
|---|---|
{scores}

Use it:

    hrnet-ray predict --model THIS_FOLDER --pictures FOLDER --out predictions

Keypoints, in order: {", ".join(spec.skeleton.keypoints)}.

Limits: it expects one person or animal per box, looking like those it was trained on. Scores
were made with the true boxes; a detector's boxes give lower ones.

Licence: that of the code is MIT. For the weights, that of the pictures they were trained on counts:
nobody has named it here.
"""

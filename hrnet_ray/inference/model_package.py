"""A trained model as a self-contained folder: weights, and what is needed to use them correctly.

model.safetensors   weights, no pickle
config.json         skeleton, net, input, decoding; sha256 of the weights; scores
README.md           the model card, for people
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from hrnet_ray.config import COARSEST_STRIDE
from hrnet_ray.errors import DataError
from hrnet_ray.models import HRNet
from hrnet_ray.models.hrnet import compute_branch_channels
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict
from hrnet_ray.utils.files import sha256_file

WEIGHTS_FILE, CONFIG_FILE, MODEL_CARD_FILE = "model.safetensors", "config.json", "README.md"
SAFETENSORS_SUFFIX = ".safetensors"
FILE_HASH_TAGS = {WEIGHTS_FILE: "model.sha256", CONFIG_FILE: "config.sha256"}
"""MLflow tag names for the sha256 of the files that decide what a model predicts."""

DECODE_METHODS = ("argmax", "quarter", "dark")
MAX_CROP_SIDE_PX = 4096
"""Of a crop, in pixels: a folder from elsewhere shall not ask for all memory there is."""
MAX_CONFIG_BYTES = 2**20

_MODEL_LOAD_ERRORS = (
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
                ("width", _is_int_between(self.width, 1, 2048)),
                (
                    "modules",
                    len(self.modules) == 3 and all(_is_int_between(m, 1, 99) for m in self.modules),
                ),
                ("blocks", _is_int_between(self.blocks, 1, 99)),
                ("stem", _is_int_between(self.stem, 1, 4096)),
                (
                    "input_hw",
                    all(_is_int_between(side, 1, MAX_CROP_SIDE_PX) for side in (height, width)),
                ),
                ("input_hw", height % COARSEST_STRIDE == 0 == width % COARSEST_STRIDE),
                ("padding", _is_number(self.padding) and 0 < self.padding <= 100),
                ("sigma", _is_number(self.sigma) and 0 < self.sigma <= 1000),
                ("decode", self.decode in DECODE_METHODS),
                ("flip_test", isinstance(self.flip_test, bool)),
                ("shift_heatmap", isinstance(self.shift_heatmap, bool)),
                ("trained_on", isinstance(self.trained_on, str)),
                ("scores", all(_is_number(score) for score in self.scores.values())),
            )
            if not right
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} cannot be {str(getattr(self, wrong[0]))[:80]}")

    def build_model(self) -> HRNet:
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
    entries = convert_spec_to_dict(spec) | {"sha256": sha256(weights).hexdigest()}
    files = {
        WEIGHTS_FILE: weights,
        MODEL_CARD_FILE: _render_model_card(spec).encode(),
        CONFIG_FILE: json.dumps(entries, indent=2).encode(),
    }
    _write_files_atomically(folder, files)


def convert_spec_to_dict(spec: ModelSpec) -> dict[str, Any]:
    """The spec as `config.json` has it."""
    return vars(spec) | {"skeleton": to_dict(spec.skeleton), "scores": dict(spec.scores)}


def load_model(path: Path) -> tuple[HRNet, ModelSpec]:
    """Read what `save_model` wrote: a folder, or a .safetensors file beside its `config.json`.

    Raises:
        DataError: files are missing, damaged, or do not belong together.
    """
    alone = path.suffix == SAFETENSORS_SUFFIX
    folder, weights = (path.parent, path) if alone else (path, path / WEIGHTS_FILE)
    try:
        spec, digest = _read_config(folder / CONFIG_FILE)
        if sha256_file(weights) != digest:
            raise ValueError(f"{weights.name} is not the file that {CONFIG_FILE} was written for")
        tensors = load_file(weights)
        _require_enough_weights(spec, tensors)
        model = spec.build_model()
        model.load_state_dict(tensors)
    except _MODEL_LOAD_ERRORS as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            "a model that cannot be loaded",
            f"{path}: {' '.join(reason.split())[:200]}",
            f"give a folder with {CONFIG_FILE} and {WEIGHTS_FILE}, such as runs/<data set>/<run>/model",
        ) from error
    model.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, spec


def compute_file_hashes(folder: Path) -> dict[str, str]:
    """The sha256 of the files that decide what a model predicts, by the names of their tags.

    Raises:
        OSError: a file is missing, or cannot be read.
    """
    return {tag: sha256_file(folder / name) for name, tag in FILE_HASH_TAGS.items()}


def _read_config(path: Path) -> tuple[ModelSpec, str]:
    """What a model is, and the sha256 of its weights."""
    with path.open("rb") as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise ValueError(f"{CONFIG_FILE} is longer than a config can be")
    entries: dict[str, Any] = json.loads(content)
    digest = entries.pop("sha256")
    entries["skeleton"] = from_dict(entries["skeleton"], where=str(path))
    entries["modules"] = tuple(entries["modules"])
    entries["input_hw"] = tuple(entries["input_hw"])
    return ModelSpec(**entries), digest


def _require_enough_weights(spec: ModelSpec, tensors: Mapping[str, Tensor]) -> None:
    """Refuse a config of a far larger net than its weights, before that net is built."""
    numbers = blocks = 0
    for branches, modules in zip((2, 3, 4), spec.modules, strict=True):
        squares = sum(channels**2 for channels in compute_branch_channels(spec.width, branches))
        numbers += modules * spec.blocks * 18 * squares  # two 3 x 3 convolutions a block
        blocks += modules * spec.blocks * branches
    numbers += 13 * spec.blocks * spec.stem**2 + 36 * spec.stem * spec.width
    have = sum(tensor.numel() for tensor in tensors.values())
    if numbers > have or blocks > len(tensors):
        raise ValueError(f"{CONFIG_FILE} describes a larger net than {WEIGHTS_FILE} holds")


def _is_int_between(value: object, minimum: int, maximum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and minimum <= value <= maximum


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _write_files_atomically(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all files beside the old ones, then rename: a full disk leaves the old ones intact."""
    beside = {name: folder / f"{name}.part" for name in files}
    try:
        for name, data in files.items():
            beside[name].write_bytes(data)
        for name, part in beside.items():
            part.replace(folder / name)
    finally:
        for part in beside.values():
            part.unlink(missing_ok=True)


def _render_model_card(spec: ModelSpec) -> str:
    height, width = spec.input_hw
    scores = "\n".join(f"| {name} | {value:.4f} |" for name, value in spec.scores.items())
    return f"""# HRNet-W{spec.width} for {spec.skeleton.name}

{len(spec.skeleton)} keypoints from crops of {width} x {height} pixels.

Trained on {spec.trained_on or "data that nobody named"}. Validation scores of these weights:

| metric | value |
|---|---|
{scores}

Use it:

    hrnet-ray predict --model THIS_FOLDER --input FOLDER --out predictions

Keypoints, in order: {", ".join(spec.skeleton.keypoints)}.

Limits: it expects one person or animal per box, looking like those it was trained on. Scores
were made with the true boxes; a detector's boxes give lower ones.

Licence: that of the code is MIT. For the weights, that of the images they were trained on counts:
nobody has named it here.
"""

"""A trained model as a folder that anybody can use: weights, and what they need to be used rightly.

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
from safetensors.torch import load, save
from torch import nn

from hrnet_ray.errors import DataError
from hrnet_ray.models import HRNet
from hrnet_ray.skeletons import Skeleton, from_dict, to_dict

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

_NOT_OURS = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError),  # no such file, no such entries
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
    """Write the three files; `config.json` vouches for the weights and comes after them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = save({name: tensor.contiguous().cpu() for name, tensor in model.state_dict().items()})
    _replace(folder / WEIGHTS, weights)
    entries = vars(spec) | {
        "skeleton": to_dict(spec.skeleton),
        "scores": dict(spec.scores),
        "sha256": sha256(weights).hexdigest(),
    }
    _replace(folder / CARD, _card(spec).encode())
    _replace(folder / CONFIG, json.dumps(entries, indent=2).encode())


def load_model(folder: Path) -> tuple[HRNet, ModelSpec]:
    """Read what `save_model` wrote.

    Raises:
        DataError: files are missing, damaged, or do not belong together.
    """
    try:
        entries: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        weights = (folder / WEIGHTS).read_bytes()
        if sha256(weights).hexdigest() != entries.pop("sha256"):
            raise ValueError(f"{WEIGHTS} is not the file that {CONFIG} was written for")
        entries["skeleton"] = from_dict(entries["skeleton"], where=str(folder / CONFIG))
        entries["modules"] = tuple(entries["modules"])
        entries["input_hw"] = tuple(entries["input_hw"])
        spec = ModelSpec(**entries)
        model = spec.build()
        model.load_state_dict(load(weights))
    except _NOT_OURS as error:
        reason = f"no entry {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            "a model that cannot be loaded",
            f"{folder}: {' '.join(reason.split())[:200]}",
            f"give a folder with {CONFIG} and {WEIGHTS}, such as runs/<data set>/<run>/model",
        ) from error
    model.eval().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return model, spec


def _replace(path: Path, data: bytes) -> None:
    """Write beside, then rename: a reader sees the old file or the new one, never half of it."""
    beside = path.with_suffix(path.suffix + ".part")
    beside.write_bytes(data)
    beside.replace(path)


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

Limits: it expects one {spec.skeleton.name} per box, looking like those it was trained on. Scores
were made with the true boxes; a detector's boxes give lower ones.
"""

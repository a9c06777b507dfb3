"""A trained model as one file for programs without this package: ONNX, or torch's own pt2.

What was written is run, and held against the model, before anybody gets it.
"""

import io
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from torch import Tensor

from hrnet_ray.errors import UsageError
from hrnet_ray.inference.export_modules import CropsToKeypointsAndHeatmaps
from hrnet_ray.inference.model_package import CONFIG, ModelSpec, as_entries
from hrnet_ray.metrics.predictions import CONFIDENT
from hrnet_ray.models import HRNet
from hrnet_ray.utils.quiet import hushed

INPUT, OUTPUTS = "crops", ("keypoints", "heatmaps")
BATCHES = (1, 2, 5)
"""What is run for the comparison: a batch has any size."""
HEATMAP_TOLERANCE, POINT_TOLERANCE_PX = 1e-4, 0.01
"""The first is a share of the highest value: about 1 in a trained net, anything in a fresh one."""

Answer = tuple[np.ndarray, np.ndarray]
"""Keypoints float32 [B, K, 3] (x, y in pixels of the crop, score) and heatmaps [B, K, h, w]."""
Run = Callable[[np.ndarray], Answer]


@dataclass(frozen=True)
class Agreement:
    """How far what was written is from the model, at most."""

    heatmaps: float
    height: float
    """The largest value of the model's own heatmaps."""
    points_px: float
    """Of the points that are sure enough to be drawn."""
    sure: int
    """How many these are."""

    @property
    def close(self) -> bool:
        """Whether it is the rounding of another order of sums, and no more."""
        allowed = HEATMAP_TOLERANCE * self.height
        same = self.heatmaps <= allowed and self.points_px <= POINT_TOLERANCE_PX
        return same and math.isfinite(self.height)


@dataclass(frozen=True)
class Exported:
    """A file's content, and how well it agrees with the model."""

    content: bytes
    agreement: Agreement


def export_model(
    model: HRNet, spec: ModelSpec, form: str, *, about: Mapping[str, Any] | None = None
) -> Exported:
    """Write the model as `form` (one of `FORMS`), run what was written, and compare.

    The file's `config.json` is the spec, with more entries from `about`.

    Raises:
        UsageError: a package that writes or runs the form is not installed.
    """
    write, load = FORMS[form]
    scores = {name: score for name, score in spec.scores.items() if math.isfinite(score)}
    config = json.dumps(as_entries(replace(spec, scores=scores)) | dict(about or {}))
    module = CropsToKeypointsAndHeatmaps(model.cpu(), spec).eval()
    # Torch tells of packages that no HRNet needs, and of its own future.
    with hushed("torch.onnx", "torch.export", "torch.__trace"):
        content = write(module, _examples(spec, 2), config)
        return Exported(content, _agreement(module, load(content), spec))


def _as_onnx(module: CropsToKeypointsAndHeatmaps, crops: Tensor, config: str) -> bytes:
    _require("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        module,
        (crops,),
        dynamo=True,
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
        input_names=[INPUT],
        output_names=list(OUTPUTS),
        verbose=False,
    )
    assert program is not None  # only the older exporter returns none
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # where each came from: folders of this machine
    entry = proto.metadata_props.add()
    entry.key, entry.value = CONFIG, config
    return proto.SerializeToString()


def _onnx_run(content: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(crops: np.ndarray) -> Answer:
        keypoints, heatmaps = session.run(list(OUTPUTS), {INPUT: crops})
        return np.asarray(keypoints), np.asarray(heatmaps)

    return run


def _as_pt2(module: CropsToKeypointsAndHeatmaps, crops: Tensor, config: str) -> bytes:
    program = torch.export.export(
        module,
        (crops,),
        dynamic_shapes={INPUT: {0: torch.export.Dim("batch")}},
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # folders of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={CONFIG: config})
    return buffer.getvalue()


def _pt2_run(content: bytes) -> Run:
    module = torch.export.load(io.BytesIO(content)).module()

    def run(crops: np.ndarray) -> Answer:
        keypoints, heatmaps = module(torch.from_numpy(crops))
        return keypoints.numpy(), heatmaps.numpy()

    return run


FORMS = {"onnx": (_as_onnx, _onnx_run), "pt2": (_as_pt2, _pt2_run)}
"""How each form is written and run."""


@torch.no_grad()
def _agreement(module: CropsToKeypointsAndHeatmaps, run: Run, spec: ModelSpec) -> Agreement:
    """Compare the maps with the model's, and the points with what the model reads in these maps.

    So two cells of nearly one height, which may swap by rounding, are no difference of the points.
    """
    heatmaps = height = points_px = 0.0
    sure = 0
    for size in BATCHES:
        crops = _examples(spec, size)
        found, seen = map(torch.from_numpy, run(crops.numpy()))
        ours, read = module.heatmaps(crops), module.read(seen)
        heatmaps = max(heatmaps, _largest(seen - ours))
        height = max(height, _largest(ours))
        certain = read[..., 2] > CONFIDENT
        points_px = max(points_px, _largest((found - read)[certain]))
        sure += int(certain.sum())
    return Agreement(heatmaps, height, points_px, sure)


def _largest(values: Tensor) -> float:
    """The largest one without its sign, infinite where one is no number; 0 of none."""
    return values.abs().nan_to_num(nan=torch.inf).amax().item() if len(values) else 0.0


def _examples(spec: ModelSpec, size: int) -> UInt8[Tensor, "{size} H W 3"]:
    """Crops of soft blots, as a net is used to see them rather than noise; always the same."""
    height, width = spec.input_hw
    chance = torch.Generator().manual_seed(size)
    blots = torch.rand(size, 3, height // 8, width // 8, generator=chance)
    soft = F.interpolate(blots, (height, width), mode="bicubic").clamp(0, 1)
    return (soft * 255).byte().permute(0, 2, 3, 1).contiguous()


def _require(*packages: str) -> None:
    missing = []
    for name in packages:
        try:
            import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise UsageError(
            "a package that ONNX needs cannot be imported",
            f"--to onnx: {', '.join(missing)}",
            'pip install "hrnet-ray[export]", or give --to pt2',
        )

"""A trained model as one file for programs without this package: ONNX, or torch's own pt2.

The exported file is run and compared with the model before it is published.
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
from hrnet_ray.inference.export_modules import KeypointHeatmapExportModule
from hrnet_ray.inference.model_package import CONFIG_FILE, ModelSpec, convert_spec_to_dict
from hrnet_ray.metrics.predictions import KEYPOINT_SCORE_THRESHOLD
from hrnet_ray.models import HRNet
from hrnet_ray.utils.quiet import quiet_loggers

INPUT_NAME, OUTPUT_NAMES = "crops", ("keypoints", "heatmaps")
TEST_BATCH_SIZES = (1, 2, 5)
"""What is run for the comparison: a batch has any size."""
HEATMAP_TOLERANCE, KEYPOINT_TOLERANCE_PX = 1e-4, 0.01
"""The first is a share of the highest value: about 1 in a trained net, anything in a fresh one."""

KeypointsAndHeatmaps = tuple[np.ndarray, np.ndarray]
"""Keypoints float32 [B, K, 3] (x, y in pixels of the crop, score) and heatmaps [B, K, h, w]."""
ExportRunner = Callable[[np.ndarray], KeypointsAndHeatmaps]


@dataclass(frozen=True)
class ExportParity:
    """How far what was written is from the model, at most."""

    max_heatmap_error: float
    max_heatmap_value: float
    """The largest value of the model's own heatmaps."""
    max_keypoint_error_px: float
    """Of the points that are sure enough to be drawn."""
    num_confident_keypoints: int
    """How many these are."""

    @property
    def is_within_tolerance(self) -> bool:
        """Whether it is the rounding of another order of sums, and no more."""
        allowed = HEATMAP_TOLERANCE * self.max_heatmap_value
        same = self.max_heatmap_error <= allowed and self.max_keypoint_error_px <= KEYPOINT_TOLERANCE_PX
        return same and math.isfinite(self.max_heatmap_value)


@dataclass(frozen=True)
class ExportResult:
    """A file's content, and how well it agrees with the model."""

    content: bytes
    parity: ExportParity


def export_model(
    model: HRNet,
    spec: ModelSpec,
    format_name: str,
    *,
    extra_entries: Mapping[str, Any] | None = None,
) -> ExportResult:
    """Write the model as `form` (one of `FORMS`), run what was written, and compare.

    The file's `config.json` is the spec, with more entries from `about`.

    Raises:
        UsageError: a package that writes or runs the form is not installed.
    """
    write, load = EXPORT_FORMATS[format_name]
    scores = {name: score for name, score in spec.scores.items() if math.isfinite(score)}
    config = json.dumps(convert_spec_to_dict(replace(spec, scores=scores)) | dict(extra_entries or {}))
    module = KeypointHeatmapExportModule(model.cpu(), spec).eval()
    # Torch warns of packages that HRNet does not need, and of later versions.
    with quiet_loggers("torch.onnx", "torch.export", "torch.__trace"):
        content = write(module, _make_example_crops(spec, 2), config)
        return ExportResult(content, _measure_parity(module, load(content), spec))


def _export_onnx(module: KeypointHeatmapExportModule, crops: Tensor, config_json: str) -> bytes:
    _require_packages("onnx", "onnxscript", "onnxruntime")
    program = torch.onnx.export(
        module,
        (crops,),
        dynamo=True,
        dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
        input_names=[INPUT_NAME],
        output_names=list(OUTPUT_NAMES),
        verbose=False,
    )
    assert program is not None  # only the older exporter returns none
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # where each came from: folders of this machine
    entry = proto.metadata_props.add()
    entry.key, entry.value = CONFIG_FILE, config_json
    return proto.SerializeToString()


def _load_onnx_runner(content: bytes) -> ExportRunner:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run_onnx_session(crops: np.ndarray) -> KeypointsAndHeatmaps:
        keypoints, heatmaps = session.run(list(OUTPUT_NAMES), {INPUT_NAME: crops})
        return np.asarray(keypoints), np.asarray(heatmaps)

    return run_onnx_session


def _export_pt2(module: KeypointHeatmapExportModule, crops: Tensor, config_json: str) -> bytes:
    program = torch.export.export(
        module,
        (crops,),
        dynamic_shapes={INPUT_NAME: {0: torch.export.Dim("batch")}},
    )
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # folders of this machine
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files={CONFIG_FILE: config_json})
    return buffer.getvalue()


def _load_pt2_runner(content: bytes) -> ExportRunner:
    module = torch.export.load(io.BytesIO(content)).module()

    def run_pt2_module(crops: np.ndarray) -> KeypointsAndHeatmaps:
        keypoints, heatmaps = module(torch.from_numpy(crops))
        return keypoints.numpy(), heatmaps.numpy()

    return run_pt2_module


EXPORT_FORMATS = {"onnx": (_export_onnx, _load_onnx_runner), "pt2": (_export_pt2, _load_pt2_runner)}
"""How each form is written and run."""


@torch.no_grad()
def _measure_parity(module: KeypointHeatmapExportModule, run_export: ExportRunner, spec: ModelSpec) -> ExportParity:
    """Compare the maps with the model's, and the points with what the model reads in these maps.

    So two cells of nearly one height, which may swap by rounding, are no difference of the points.
    """
    heatmaps = height = points_px = 0.0
    sure = 0
    for size in TEST_BATCH_SIZES:
        crops = _make_example_crops(spec, size)
        found, seen = map(torch.from_numpy, run_export(crops.numpy()))
        ours, read = module.compute_heatmaps(crops), module.decode_keypoints(seen)
        heatmaps = max(heatmaps, _compute_max_abs(seen - ours))
        height = max(height, _compute_max_abs(ours))
        certain = read[..., 2] > KEYPOINT_SCORE_THRESHOLD
        points_px = max(points_px, _compute_max_abs((found - read)[certain]))
        sure += int(certain.sum())
    return ExportParity(heatmaps, height, points_px, sure)


def _compute_max_abs(values: Tensor) -> float:
    """The largest one without its sign, infinite where one is no number; 0 of none."""
    return values.abs().nan_to_num(nan=torch.inf).amax().item() if len(values) else 0.0


def _make_example_crops(spec: ModelSpec, size: int) -> UInt8[Tensor, "{size} H W 3"]:
    """Crops of soft blots, as a net is used to see them rather than noise; always the same."""
    height, width = spec.input_hw
    chance = torch.Generator().manual_seed(size)
    blots = torch.rand(size, 3, height // 8, width // 8, generator=chance)
    soft = F.interpolate(blots, (height, width), mode="bicubic").clamp(0, 1)
    return (soft * 255).byte().permute(0, 2, 3, 1).contiguous()


def _require_packages(*packages: str) -> None:
    missing = []
    for name in packages:
        try:
            import_module(name)
        except ImportError as error:
            missing.append(f"{name} ({error})")
    if missing:
        raise UsageError(
            "a package that ONNX needs cannot be imported",
            f"--format onnx: {', '.join(missing)}",
            'pip install "hrnet-ray[export]", or give --format pt2',
        )

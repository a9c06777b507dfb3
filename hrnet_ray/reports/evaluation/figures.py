"""Plots of an evaluation: threshold curve, scores per keypoint, and worst predictions."""

from pathlib import Path

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.evaluation.model_evaluation import EvaluationResult
from hrnet_ray.evaluation.predict_split import load_crops
from hrnet_ray.visualization.crop_grid import draw_crop_grid
from hrnet_ray.visualization.plots import plot_metric_curve, plot_per_keypoint

NUM_WORST = 16
OFF_CROP_XY = -1e9
"""Coordinate outside every crop, at which nothing is drawn."""


def write_plots(evaluation: EvaluationResult, manifest: DatasetManifest, out_dir: Path) -> list[Path]:
    """Write pck_curve.png, per_keypoint.png and worst_predictions.png, and return their paths."""
    metrics, comparison = evaluation.model_evaluation.metrics, evaluation.comparison
    curves = {_truncate_name_start(evaluation.model_evaluation.name): metrics.metric_curve}
    if comparison:
        baseline = comparison.baseline
        curves[f"baseline {_truncate_name_start(baseline.name)}"] = baseline.metrics.metric_curve
    paths = [out_dir / name for name in ("pck_curve.png", "per_keypoint.png", "worst_predictions.png")]
    plot_metric_curve(paths[0], curves, primary_metric=metrics.primary_metric)
    values = {name: score.score for name, score in metrics.per_keypoint.items()}
    family = metrics.primary_metric.split("_")[0]
    metric = "PCKh@0.5" if family == "PCKh" else family
    plot_per_keypoint(paths[1], values, metric=metric, split=evaluation.eval_spec.split)
    codec.write_image(paths[2], plot_worst_instances(evaluation, manifest))
    return paths


def plot_worst_instances(evaluation: EvaluationResult, manifest: DatasetManifest) -> np.ndarray:
    """Draw the instances with the lowest scores, the worst first: truth thin, prediction thick."""
    metrics, ground_truth = evaluation.model_evaluation.metrics, evaluation.ground_truth
    indices = metrics.indices_worst_first[:NUM_WORST]
    family = metrics.primary_metric.split("_")[0]
    crops = load_crops(
        manifest,
        evaluation.eval_spec.split,
        ground_truth.columns["id"][indices],
        evaluation.model_evaluation.spec,
    )
    predicted_xy = metrics.nearest_image_xy[indices]
    has_no_pose = np.isnan(predicted_xy[:, 0, 0]).tolist()
    captions = [
        f"{family} {metrics.per_instance_score[row]:.2f}{', no pose' if no_pose else ''}  "
        f"{ground_truth.row_image_names[row]}".encode("ascii", "replace").decode()
        for row, no_pose in zip(indices, has_no_pose, strict=True)
    ]
    return draw_crop_grid(
        list(crops["crop"]),
        crops["crop_from_image"],
        np.where(np.isnan(predicted_xy), OFF_CROP_XY, predicted_xy),
        ground_truth.columns["image_xy"][indices],
        ground_truth.columns["visible"][indices],
        manifest.skeleton,
        captions=captions,
    )


def _truncate_name_start(name: str) -> str:
    return name if len(name) <= 40 else ".." + name[-38:]

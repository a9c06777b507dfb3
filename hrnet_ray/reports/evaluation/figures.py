"""Pictures of an evaluation: its curve, and the instances that went worst."""

from pathlib import Path

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.evaluation.model_evaluation import EvaluationResult
from hrnet_ray.evaluation.predict_split import load_crops
from hrnet_ray.visualization.crop_grid import draw_crop_grid
from hrnet_ray.visualization.plots import plot_metric_curve, plot_per_keypoint

NUM_WORST = 16
OFF_CROP_XY = -1e9  # beyond any crop, where nothing is drawn


def write_plots(
    evaluation: EvaluationResult, manifest: DatasetManifest, out_dir: Path
) -> list[Path]:
    """Write pck_curve.png, per_keypoint.png and worst16.png, and return their paths."""
    assessment, against = evaluation.model_evaluation.metrics, evaluation.comparison
    curves = {_truncate_name_start(evaluation.model_evaluation.name): assessment.metric_curve}
    if against:
        curves[f"against {_truncate_name_start(against.baseline.name)}"] = (
            against.baseline.metrics.metric_curve
        )
    paths = [
        out_dir / name for name in ("pck_curve.png", "per_keypoint.png", "worst_predictions.png")
    ]
    plot_metric_curve(paths[0], curves, primary_metric=assessment.primary_metric)
    values = {name: score.score for name, score in assessment.per_keypoint.items()}
    kind = assessment.primary_metric.split("_")[0]
    by = "PCKh@0.5" if kind == "PCKh" else kind
    plot_per_keypoint(paths[1], values, metric=by, split=evaluation.eval_spec.split)
    codec.write_image(paths[2], plot_worst_instances(evaluation, manifest))
    return paths


def plot_worst_instances(evaluation: EvaluationResult, manifest: DatasetManifest) -> np.ndarray:
    """The instances that went worst, the very worst first: truth thin, prediction thick."""
    assessment, labelled = evaluation.model_evaluation.metrics, evaluation.ground_truth
    shown = assessment.indices_worst_first[:NUM_WORST]
    kind = assessment.primary_metric.split("_")[0]
    crops = load_crops(
        manifest,
        evaluation.eval_spec.split,
        labelled.columns["id"][shown],
        evaluation.model_evaluation.spec,
    )
    found_xy = assessment.nearest_image_xy[shown]
    without = np.isnan(found_xy[:, 0, 0]).tolist()
    captions = [
        f"{kind} {assessment.per_instance_score[at]:.2f}{', no pose' if lost else ''}  "
        f"{labelled.row_image_names[at]}".encode("ascii", "replace").decode()
        for at, lost in zip(shown, without, strict=True)
    ]
    return draw_crop_grid(
        list(crops["crop"]),
        crops["crop_from_image"],
        np.where(np.isnan(found_xy), OFF_CROP_XY, found_xy),
        labelled.columns["image_xy"][shown],
        labelled.columns["visible"][shown],
        manifest.skeleton,
        captions=captions,
    )


def _truncate_name_start(name: str) -> str:
    return name if len(name) <= 40 else ".." + name[-38:]

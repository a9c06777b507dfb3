"""Pictures of an evaluation: its curve, and the instances that went worst."""

from pathlib import Path

import numpy as np

from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.evaluation.model_evaluation import Evaluation
from hrnet_ray.evaluation.predict_split import crops_of
from hrnet_ray.visualization.crop_grid import poses_on_crops
from hrnet_ray.visualization.plots import pck_curve, per_keypoint

WORST = 16
NOWHERE = -1e9  # beyond any crop, where nothing is drawn


def draw(evaluation: Evaluation, manifest: Manifest, out: Path) -> list[Path]:
    """Write pck_curve.png, per_keypoint.png and worst16.png, and return their paths."""
    assessment, against = evaluation.judged.assessment, evaluation.against
    curves = {_short(evaluation.judged.name): assessment.curve}
    if against:
        curves[f"against {_short(against.other.name)}"] = against.other.assessment.curve
    paths = [out / name for name in ("pck_curve.png", "per_keypoint.png", "worst16.png")]
    pck_curve(paths[0], curves, main=assessment.main)
    values = {name: score.value for name, score in assessment.per_keypoint.items()}
    kind = assessment.main.split("_")[0]
    by = "PCKh@0.5" if kind == "PCKh" else kind
    per_keypoint(paths[1], values, of=by, on=evaluation.question.split)
    codec.write(paths[2], worst(evaluation, manifest))
    return paths


def worst(evaluation: Evaluation, manifest: Manifest) -> np.ndarray:
    """The instances that went worst, the very worst first: truth thin, prediction thick."""
    assessment, labelled = evaluation.judged.assessment, evaluation.labelled
    shown = assessment.rank[:WORST]
    kind = assessment.main.split("_")[0]
    crops = crops_of(
        manifest, evaluation.question.split, labelled.truth["id"][shown], evaluation.judged.spec
    )
    found_xy = assessment.nearest_xy[shown]
    without = np.isnan(found_xy[:, 0, 0]).tolist()
    captions = [
        f"{kind} {assessment.per_instance[at]:.2f}{', no pose' if lost else ''}  "
        f"{labelled.images[at]}".encode("ascii", "replace").decode()
        for at, lost in zip(shown, without, strict=True)
    ]
    return poses_on_crops(
        list(crops["crop"]),
        crops["crop_from_image"],
        np.where(np.isnan(found_xy), NOWHERE, found_xy),
        labelled.truth["image_xy"][shown],
        labelled.truth["visible"][shown],
        manifest.skeleton,
        captions=captions,
    )


def _short(name: str) -> str:
    return name if len(name) <= 40 else ".." + name[-38:]

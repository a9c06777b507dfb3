"""MPII annotations to instances: the JSON files of the HRNet authors, and gt_valid.mat.

They count pixels from 1 (MATLAB); instances count from 0 like every array here.
"""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import (
    MAX_COORDINATE,
    AnnotationSet,
    PoseInstance,
    parse_file_name,
    parse_number,
    parse_numbers,
    require_file,
)
from hrnet_ray.data.formats.matlab import load_mat_safe
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import MPII

SC_BIAS = 0.6  # the head box is larger than the head: MPII's own correction
PIXEL_STD = 200.0  # MPII's `scale` is a height in units of 200 pixels
PADDING = 1.25  # the published crop; boxes are given so that this padding reproduces it

_UPPER_NECK_INDEX, _HEAD_TOP_INDEX = (
    MPII.keypoints.index("upper_neck"),
    MPII.keypoints.index("head_top"),
)


def read_mpii(annotations: Path, *, gt_valid: Path | None = None) -> AnnotationSet:
    """Read `train.json`, `valid.json` or `trainval.json`.

    With `gt_valid` (in the row order of `valid.json`), truth, visibility and head sizes come from
    it, as in the published evaluation. Without it a head is the way from upper neck to head top.

    Raises:
        DataError: a file that is not in this form, or a gt_valid.mat of other rows.
    """
    records = _load_records(annotations)
    instances = [_parse_instance(record, at, annotations) for at, record in enumerate(records)]
    if gt_valid is None:
        note = (
            f"{annotations.name}: no gt_valid.mat; head size is the distance from upper_neck to "
            "head_top, so PCKh is not the published figure"
        )
        return AnnotationSet(source=annotations, skeleton=MPII, instances=instances, notes=[note])
    merged = _merge_ground_truth(instances, gt_valid)
    notes = compare_visibility(gt_valid.name, merged, annotations.name, instances)
    return AnnotationSet(source=annotations, skeleton=MPII, instances=merged, notes=notes)


def compare_visibility(
    name: str, instances: list[PoseInstance], other_name: str, other_instances: list[PoseInstance]
) -> list[str]:
    """Report at how many keypoints of the same people two files differ, and at which; often none.

    Whether keypoints that are annotated but occluded count is what files differ about.
    """
    differing = sum(
        (one.visible != other.visible for one, other in zip(instances, other_instances, strict=True)),
        start=np.zeros(len(MPII), np.int64),
    )
    if not differing.any():
        return []
    each = [f"{MPII.keypoints[at]} {differing[at]:,}" for at in np.flatnonzero(differing)]
    return [f"{name}: visibility differs from {other_name} at {differing.sum():,} keypoints ({', '.join(each)})"]


def _parse_instance(record: dict[str, Any], record_index: int, path: Path) -> PoseInstance:
    where = f"{path.name}: [{record_index}]"
    try:
        image = parse_file_name(record.get("image"), "image")
        center = parse_numbers(record.get("center"), 2, "center")
        scale = parse_number(record.get("scale"), "scale")
        if scale < 1e-3:  # a fifth of a pixel; an area of nothing cannot be scored
            raise ValueError(f"scale is {scale:g}")
        points = _parse_joints(record.get("joints")) - 1
        visible = parse_numbers(record.get("joints_vis"), len(MPII), "joints_vis") > 0
    except ValueError as error:
        raise DataError(
            f"a record that cannot be read ({error})",
            where,
            f"each needs image, center, scale, joints and joints_vis for {len(MPII)} keypoints",
        ) from error
    image_xy = np.where(visible[:, None], points, 0.0)
    return PoseInstance(
        id=record_index,
        image_id=record_index,
        image=image,
        box_xywh=compute_box_from_center_scale(center, scale),
        area=(scale * PIXEL_STD) ** 2,
        head_size=_measure_neck_to_head(image_xy, visible),
        image_xy=image_xy,
        visible=visible,
    )


def _parse_joints(joints: object) -> np.ndarray:
    if not isinstance(joints, list) or len(joints) != len(MPII):
        raise ValueError(f"joints is {joints!r:.60} where {len(MPII)} points are wanted")
    return np.array([parse_numbers(point, 2, f"joints[{at}]") for at, point in enumerate(joints)])


def compute_box_from_center_scale(center_xy: np.ndarray, scale: float) -> tuple[float, float, float, float]:
    """The square that, padded by 1.25, is the published crop.

    The published order: move the centre 15 * scale down and enlarge, both only where there is a
    centre; then count from 0.
    """
    side = scale * PIXEL_STD
    x, y = center_xy
    if x != -1:
        y += 15 * scale
    else:
        side /= PADDING
    return x - 1 - side / 2, y - 1 - side / 2, side, side


def _measure_neck_to_head(image_xy: np.ndarray, visible: np.ndarray) -> float:
    if not visible[[_UPPER_NECK_INDEX, _HEAD_TOP_INDEX]].all():
        return math.nan
    return float(np.linalg.norm(image_xy[_HEAD_TOP_INDEX] - image_xy[_UPPER_NECK_INDEX])) or math.nan


def _merge_ground_truth(instances: list[PoseInstance], path: Path) -> list[PoseInstance]:
    """Take points, visibility and heads from gt_valid.mat."""
    hidden, points, heads = _load_ground_truth(path)
    if len(heads) != len(instances):
        raise DataError(
            f"{len(instances):,} records but {len(heads):,} rows of truth",
            str(path),
            "give the gt_valid.mat that belongs to this annotation file (valid.json)",
        )
    merged = []
    for at, instance in enumerate(instances):
        visible = ~hidden[at]
        image_xy = np.where(visible[:, None], points[at] - 1, 0.0)
        merged.append(replace(instance, image_xy=image_xy, visible=visible, head_size=float(heads[at])))
    return merged


def _load_ground_truth(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read which keypoints are hidden (bool [N, 16]), points ([N, 16, 2]) and head sizes ([N])."""
    truth = load_mat_safe(path, ["jnt_missing", "pos_gt_src", "headboxes_src"], flag="--gt-valid")
    try:
        missing = np.asarray(truth["jnt_missing"], np.float64)  # [16, N]
        points = np.asarray(truth["pos_gt_src"], np.float64)  # [16, 2, N]
        boxes = np.asarray(truth["headboxes_src"], np.float64)  # [2, 2, N]
        shapes = [array.shape for array in (missing, points, boxes)]
        count = missing.shape[-1]
        if shapes != [(len(MPII), count), (len(MPII), 2, count), (2, 2, count)]:
            raise ValueError(f"jnt_missing, pos_gt_src and headboxes_src have shapes {shapes}")
        if not np.all(np.abs(points) < MAX_COORDINATE, axis=1)[missing == 0].all():
            raise ValueError("a keypoint that is not missing has coordinates that are no numbers")
    except (ValueError, TypeError) as error:
        raise DataError(
            "a gt_valid.mat that cannot be read",
            f"{path}: {error}",
            "give the file that comes with the HRNet authors' annotations",
        ) from error
    heads = np.linalg.norm(boxes[1] - boxes[0], axis=0) * SC_BIAS
    return missing.T != 0, points.transpose(2, 0, 1), np.where(heads > 0, heads, math.nan)


def _load_records(path: Path) -> list[dict[str, Any]]:
    require_file(path, "--annotations")
    try:
        records = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("a file that is no JSON", f"{path}: {error}", "give MPII's JSON") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(
            "a JSON file that is not MPII's list of records",
            str(path),
            "give train.json or valid.json of the HRNet authors (or use `prepare coco`)",
        )
    return records

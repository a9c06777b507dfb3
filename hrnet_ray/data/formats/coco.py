"""COCO-form annotations to instances: COCO, ATRW (as downloaded and republished), AP-10K, exports.

ATRW as downloaded names an image by `filename` where COCO has `file_name`; both are read. Known
defects of labelling tools are corrected or skipped, and reported (`AnnotationSet.notes`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import (
    AnnotationSet,
    PoseInstance,
    SkippedItem,
    SkipReason,
    format_value,
    parse_file_name,
    parse_number,
    parse_numbers,
)
from hrnet_ray.data.formats import coco_document, label_studio_coco
from hrnet_ray.data.formats.coco_document import is_valid_id
from hrnet_ray.data.formats.label_defects import DefectCounter, LabelDefect
from hrnet_ray.data.formats.label_studio import read_label_studio
from hrnet_ray.data.formats.label_studio_tasks import is_label_studio_export
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton

MIN_BOX_AREA_FRAC, MAX_BOX_AREA_FRAC = 0.05, 1.1
"""A thing fills so much of its box; OKS measures errors by the root of its area."""


def read_coco(annotations: Path, *, skeleton: Skeleton | None = None) -> AnnotationSet:
    """Read one annotation file; without a `skeleton`, its categories give it.

    An instance without labelled keypoints, with an empty box, marked as a crowd, or of a category
    with another number of keypoints than the `skeleton`'s, is skipped and named. Label Studio's own
    JSON is known, and read as such.

    Raises:
        DataError: the file is no COCO document, or an annotation in it does not fit.
    """
    document = coco_document.load_document(annotations)
    if is_label_studio_export(document):
        return read_label_studio(annotations, skeleton=skeleton)
    document = coco_document.validate_document(document, annotations)
    images = coco_document.index_by_id(document["images"], "image", annotations)
    coco_document.index_by_id(document["annotations"], "annotation", annotations)  # no two of one id
    if skeleton is None:
        skeleton = coco_document.fill_known_sigmas(coco_document.infer_skeleton(document, annotations))
        told = []
    else:
        told = coco_document.validate_keypoint_order(document, skeleton, annotations)
    others = coco_document.find_mismatched_categories(document, skeleton, annotations)
    repaired = label_studio_coco.normalize_coco_export(document, images)
    instances, skipped, defects = [], [], DefectCounter()
    for at, annotation in enumerate(repaired.annotations):
        where = f"{annotations.name}: annotations[{at}] (id {annotation['id']})"
        image = _get_image_record(annotation, repaired.images, where)
        category = annotation.get("category_id")
        if is_valid_id(category) and category in others:
            skipped.append(
                SkippedItem(
                    _describe_annotation(annotation, _parse_image_file_name(image)),
                    SkipReason.OTHER_CATEGORY,
                )
            )
            continue
        try:
            found = _parse_instance(annotation, image, skeleton, where, defects)
        except ValueError as error:
            raise DataError(f"an annotation that cannot be read ({error})", where, "correct this entry") from error
        if isinstance(found, PoseInstance) and annotation["id"] in repaired.merged_pose_ids:
            found = SkippedItem(
                _describe_annotation(annotation, found.image),
                SkipReason.MERGED_POSES,
                "one pose, several boxes",
            )
        (skipped if isinstance(found, SkippedItem) else instances).append(found)
    notes = [f"{annotations.name}: {note}" for note in (*told, *repaired.notes)]
    notes += defects.build_notes(annotations.name, len(repaired.annotations))
    return AnnotationSet(source=annotations, skeleton=skeleton, instances=instances, skipped=skipped, notes=notes)


def _parse_instance(
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    skeleton: Skeleton,
    where: str,
    defects: DefectCounter,
) -> PoseInstance | SkippedItem:
    name = _parse_image_file_name(image)
    item = _describe_annotation(annotation, name)
    xyv = _parse_keypoints(annotation, skeleton, where)
    if annotation.get("iscrowd") not in (None, 0, 1):
        raise ValueError(f"iscrowd is {format_value(annotation['iscrowd'])} where 0 or 1 is wanted")
    if annotation.get("iscrowd"):
        return SkippedItem(item, SkipReason.CROWD)
    defects.count_keypoint_defects(xyv, annotation.get("num_keypoints"))
    # A visible keypoint at (0, 0) is one that a tool forgot to mark as absent.
    visible = (xyv[:, 2] > 0) & xyv[:, :2].any(1)
    if not visible.any():
        return SkippedItem(item, SkipReason.NO_KEYPOINTS, _explain_missing_keypoints(annotation, xyv))
    written, box = _parse_and_clip_box(annotation, image, xyv[visible, :2], defects)
    if box is None:
        return SkippedItem(item, SkipReason.EMPTY_BOX, f"bbox {annotation.get('bbox')}")
    defects.count_box_defects(xyv[visible, :2], written, _parse_image_wh(image))
    return PoseInstance(
        id=annotation["id"],
        image_id=image["id"],
        image=name,
        category_id=_parse_category_id(annotation),
        box_xywh=box,
        area=_parse_area(annotation, box, written, defects),
        image_xy=np.where(visible[:, None], xyv[:, :2], 0.0),
        visible=visible,
        annotated_wh=_parse_image_wh(image) if all(map(math.isfinite, _parse_image_wh(image))) else None,
    )


def _describe_annotation(annotation: Mapping[str, Any], image_name: str) -> str:
    return f"annotation {annotation['id']} ({image_name})"


def _explain_missing_keypoints(annotation: Mapping[str, Any], xyv: np.ndarray) -> str:
    if xyv[:, :2].any():
        return "coordinates, but every visibility is 0"
    if xyv.any():
        return "every keypoint is at (0, 0)"
    bbox = annotation.get("bbox")
    if annotation.get("keypoints") == [] and isinstance(bbox, list) and not any(bbox):
        return "empty, and a box of zeros, as CVAT writes a track outside its frames"
    return ""


def _parse_category_id(annotation: Mapping[str, Any]) -> int:
    category_id = annotation.get("category_id", 1)
    if not is_valid_id(category_id):
        raise ValueError(f"category_id is {format_value(category_id)} where a whole number is wanted")
    return category_id


def _parse_keypoints(annotation: Mapping[str, Any], skeleton: Skeleton, where: str) -> np.ndarray:
    """(x, y, visibility) as float64 [K, 3]; all zero where there are none."""
    points = annotation.get("keypoints")
    if points in (None, []):
        return np.zeros((len(skeleton), 3))
    if not isinstance(points, list):
        raise ValueError(f"keypoints is {format_value(points)} where a list is wanted")
    if len(points) != 3 * len(skeleton):
        raise DataError(
            f"{len(points)} keypoint numbers where {skeleton.name!r} has {len(skeleton)} keypoints",
            where,
            f"give 3 numbers a keypoint ({3 * len(skeleton)}), or another --skeleton",
        )
    return parse_numbers(points, len(points), "keypoints").reshape(-1, 3)


def _parse_and_clip_box(
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    image_xy: np.ndarray,
    defects: DefectCounter,
) -> tuple[np.ndarray, tuple[float, float, float, float] | None]:
    """The box as written, and as published: that of the whole W x H image is (W-1) x (H-1).

    Without one, or with four zeros (CVAT writes them beside keypoints), it is taken around the
    points.
    """
    bbox = annotation.get("bbox")
    written = parse_numbers([0, 0, 0, 0] if bbox in (None, []) else bbox, 4, "bbox")
    x, y, w, h = written.tolist()
    if not written.any():
        defects.count_defect(LabelDefect.MISSING_BOX)
        low = image_xy.min(0).clip(min=0)
        (x, y), (w, h) = low.tolist(), (image_xy.max(0) - low + 1).tolist()
    width, height = _parse_image_wh(image)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(width - 1, x1 + max(0.0, w - 1))
    y2 = min(height - 1, y1 + max(0.0, h - 1))
    if x2 <= x1 or y2 <= y1:
        return written, None
    return written, (x1, y1, x2 - x1, y2 - y1)


def _parse_area(
    annotation: Mapping[str, Any],
    box_xywh: tuple[float, float, float, float],
    raw_box_xywh: np.ndarray,
    defects: DefectCounter,
) -> float:
    """The area as written; the box's, where it is left out or can be no area of an image."""
    area, box = _parse_nonnegative(annotation, "area"), box_xywh[2] * box_xywh[3]
    most = raw_box_xywh[2] * raw_box_xywh[3]
    defects.count_defect(LabelDefect.TINY_AREA, 0 < area < 1)
    if area < 1:
        return box
    odd = not MIN_BOX_AREA_FRAC * most <= area <= MAX_BOX_AREA_FRAC * most
    defects.count_defect(LabelDefect.IMPLAUSIBLE_AREA, most and odd)
    return area


def _parse_image_wh(image: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height; infinite where the record lacks them."""
    return (
        _parse_nonnegative(image, "width") or math.inf,
        _parse_nonnegative(image, "height") or math.inf,
    )


def _parse_nonnegative(record: Mapping[str, Any], key: str) -> float:
    """A size; 0 where the record lacks it."""
    if record.get(key) is None:
        return 0.0
    size = parse_number(record[key], key)
    if size < 0:
        raise ValueError(f"{key} is {size:g}")
    return size


def _get_image_record(
    annotation: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    image_id = annotation.get("image_id")
    if not is_valid_id(image_id) or image_id not in images:
        raise DataError(
            f"image_id {format_value(image_id)} is not among the images",
            where,
            "add its record to `images`, or remove the annotation",
        )
    return images[image_id]


def _parse_image_file_name(image: Mapping[str, Any]) -> str:
    key = "filename" if image.get("file_name") is None and "filename" in image else "file_name"
    return parse_file_name(image.get(key), f"{key} of image {image['id']}")

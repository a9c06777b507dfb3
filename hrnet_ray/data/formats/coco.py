"""COCO-form annotations to instances: COCO, ATRW (as downloaded and republished), AP-10K, exports.

ATRW as downloaded names a picture by `filename` where COCO says `file_name`; both are read. What
labelling tools are known to write wrong is put right or skipped, and told (`Labels.notes`).
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import (
    Instance,
    Labels,
    Reason,
    Skipped,
    file_name,
    number,
    numbers,
    shown,
)
from hrnet_ray.data.formats import coco_document, label_studio_coco
from hrnet_ray.data.formats.coco_document import is_id
from hrnet_ray.data.formats.label_defects import Defect, Defects
from hrnet_ray.data.formats.label_studio import read_label_studio
from hrnet_ray.data.formats.label_studio_tasks import is_export
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton

LEAST_OF_BOX, MOST_OF_BOX = 0.05, 1.1
"""A thing fills so much of its box; OKS measures errors by the root of its area."""


def read_coco(annotations: Path, *, skeleton: Skeleton | None = None) -> Labels:
    """Read one annotation file; without a `skeleton`, its categories give it.

    An instance without labelled keypoints, with an empty box, marked as a crowd, or of a category
    with another number of keypoints than the `skeleton`'s, is skipped and named. Label Studio's own
    JSON is known, and read as such.

    Raises:
        DataError: the file is no COCO document, or an annotation in it does not fit.
    """
    document = coco_document.load(annotations)
    if is_export(document):
        return read_label_studio(annotations, skeleton=skeleton)
    document = coco_document.check(document, annotations)
    images = coco_document.by_id(document["images"], "image", annotations)
    coco_document.by_id(document["annotations"], "annotation", annotations)  # no two of one id
    if skeleton is None:
        skeleton = coco_document.completed(coco_document.skeleton_of(document, annotations))
        told = []
    else:
        told = coco_document.check_order(document, skeleton, annotations)
    others = coco_document.other_categories(document, skeleton, annotations)
    repaired = label_studio_coco.repaired(document, images)
    instances, skipped, defects = [], [], Defects()
    for at, annotation in enumerate(repaired.annotations):
        where = f"{annotations.name}: annotations[{at}] (id {annotation['id']})"
        image = _image_of(annotation, repaired.images, where)
        category = annotation.get("category_id")
        if is_id(category) and category in others:
            skipped.append(Skipped(_item(annotation, _file_name(image)), Reason.OTHER_CATEGORY))
            continue
        try:
            found = _instance(annotation, image, skeleton, where, defects)
        except ValueError as error:
            raise DataError(
                f"an annotation that cannot be read ({error})", where, "correct this entry"
            ) from error
        if isinstance(found, Instance) and annotation["id"] in repaired.merged:
            found = Skipped(
                _item(annotation, found.image), Reason.MERGED_POSES, "one pose, several boxes"
            )
        (skipped if isinstance(found, Skipped) else instances).append(found)
    notes = [f"{annotations.name}: {note}" for note in (*told, *repaired.notes)]
    notes += defects.notes(annotations.name, len(repaired.annotations))
    return Labels(
        source=annotations, skeleton=skeleton, instances=instances, skipped=skipped, notes=notes
    )


def _instance(
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    skeleton: Skeleton,
    where: str,
    defects: Defects,
) -> Instance | Skipped:
    name = _file_name(image)
    item = _item(annotation, name)
    xyv = _keypoints(annotation, skeleton, where)
    if annotation.get("iscrowd") not in (None, 0, 1):
        raise ValueError(f"iscrowd is {shown(annotation['iscrowd'])} where 0 or 1 is wanted")
    if annotation.get("iscrowd"):
        return Skipped(item, Reason.CROWD)
    defects.count_points(xyv, annotation.get("num_keypoints"))
    # A visible keypoint at (0, 0) is one that a tool forgot to mark as absent.
    visible = (xyv[:, 2] > 0) & xyv[:, :2].any(1)
    if not visible.any():
        return Skipped(item, Reason.NO_KEYPOINTS, _why_none(annotation, xyv))
    written, box = _boxes(annotation, image, xyv[visible, :2], defects)
    if box is None:
        return Skipped(item, Reason.EMPTY_BOX, f"bbox {annotation.get('bbox')}")
    defects.count_outside(xyv[visible, :2], written, _size(image))
    return Instance(
        id=annotation["id"],
        image_id=image["id"],
        image=name,
        category_id=_category_id(annotation),
        box_xywh=box,
        area=_area(annotation, box, written, defects),
        head_size=math.nan,
        image_xy=np.where(visible[:, None], xyv[:, :2], 0.0),
        visible=visible,
        told_wh=_size(image) if all(map(math.isfinite, _size(image))) else None,
    )


def _item(annotation: Mapping[str, Any], name: str) -> str:
    return f"annotation {annotation['id']} ({name})"


def _why_none(annotation: Mapping[str, Any], xyv: np.ndarray) -> str:
    if xyv[:, :2].any():
        return "coordinates, but every visibility is 0"
    if xyv.any():
        return "every keypoint is at (0, 0)"
    bbox = annotation.get("bbox")
    if annotation.get("keypoints") == [] and isinstance(bbox, list) and not any(bbox):
        return "empty, and a box of zeros, as CVAT writes a track outside its frames"
    return ""


def _category_id(annotation: Mapping[str, Any]) -> int:
    category_id = annotation.get("category_id", 1)
    if not is_id(category_id):
        raise ValueError(f"category_id is {shown(category_id)} where a whole number is wanted")
    return category_id


def _keypoints(annotation: Mapping[str, Any], skeleton: Skeleton, where: str) -> np.ndarray:
    """(x, y, visibility) as float64 [K, 3]; all zero where there are none."""
    points = annotation.get("keypoints")
    if points in (None, []):
        return np.zeros((len(skeleton), 3))
    if not isinstance(points, list):
        raise ValueError(f"keypoints is {shown(points)} where a list is wanted")
    if len(points) != 3 * len(skeleton):
        raise DataError(
            f"{len(points)} keypoint numbers where {skeleton.name!r} has {len(skeleton)} keypoints",
            where,
            f"give 3 numbers a keypoint ({3 * len(skeleton)}), or another --skeleton",
        )
    return numbers(points, len(points), "keypoints").reshape(-1, 3)


def _boxes(
    annotation: Mapping[str, Any], image: Mapping[str, Any], points: np.ndarray, defects: Defects
) -> tuple[np.ndarray, tuple[float, float, float, float] | None]:
    """The box as written, and as published: that of the whole W x H picture is (W-1) x (H-1).

    Without one, or with four zeros (CVAT writes them beside keypoints), it is taken around the
    points.
    """
    bbox = annotation.get("bbox")
    written = numbers([0, 0, 0, 0] if bbox in (None, []) else bbox, 4, "bbox")
    x, y, w, h = written.tolist()
    if not written.any():
        defects.count(Defect.BOX_OF_ZEROS)
        low = points.min(0).clip(min=0)
        (x, y), (w, h) = low.tolist(), (points.max(0) - low + 1).tolist()
    width, height = _size(image)
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(width - 1, x1 + max(0.0, w - 1))
    y2 = min(height - 1, y1 + max(0.0, h - 1))
    if x2 <= x1 or y2 <= y1:
        return written, None
    return written, (x1, y1, x2 - x1, y2 - y1)


def _area(
    annotation: Mapping[str, Any],
    box_xywh: tuple[float, float, float, float],
    written: np.ndarray,
    defects: Defects,
) -> float:
    """The area as written; the box's, where it is left out or can be no area of a picture."""
    area, box = _not_negative(annotation, "area"), box_xywh[2] * box_xywh[3]
    most = written[2] * written[3]
    defects.count(Defect.NO_AREA, 0 < area < 1)
    if area < 1:
        return box
    odd = not LEAST_OF_BOX * most <= area <= MOST_OF_BOX * most
    defects.count(Defect.ODD_AREA, most and odd)
    return area


def _size(image: Mapping[str, Any]) -> tuple[float, float]:
    """Width and height; infinite where the record does not tell."""
    return (
        _not_negative(image, "width") or math.inf,
        _not_negative(image, "height") or math.inf,
    )


def _not_negative(record: Mapping[str, Any], key: str) -> float:
    """A size; 0 where the record does not tell."""
    if record.get(key) is None:
        return 0.0
    size = number(record[key], key)
    if size < 0:
        raise ValueError(f"{key} is {size:g}")
    return size


def _image_of(
    annotation: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    image_id = annotation.get("image_id")
    if not is_id(image_id) or image_id not in images:
        raise DataError(
            f"image_id {shown(image_id)} is not among the images",
            where,
            "add its record to `images`, or remove the annotation",
        )
    return images[image_id]


def _file_name(image: Mapping[str, Any]) -> str:
    key = "filename" if image.get("file_name") is None and "filename" in image else "file_name"
    return file_name(image.get(key), f"{key} of image {image['id']}")

"""COCO-form annotations to instances: COCO, ATRW (as downloaded and republished), AP-10K, exports.

ATRW as downloaded names a picture by `filename` where COCO says `file_name`; both are read.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.labels import Instance, Labels, Skipped, check_file
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, from_coco_category


def read_coco(annotations: Path, *, skeleton: Skeleton | None = None) -> Labels:
    """Read one annotation file; without a `skeleton`, its categories give it.

    An instance without labelled keypoints, with an empty box, or marked as a crowd is skipped,
    as in the published loaders, and named.

    Raises:
        DataError: the file is no COCO document, or an annotation in it does not fit.
    """
    document = _load(annotations)
    images = _by_id(document["images"], "image", annotations)
    _by_id(document["annotations"], "annotation", annotations)  # refuses two of one id
    skeleton = skeleton or _skeleton_of(document, annotations)
    instances, skipped = [], []
    for at, annotation in enumerate(document["annotations"]):
        where = f"{annotations.name}: annotations[{at}] (id {annotation['id']})"
        try:
            image = _image_of(annotation, images, where)
            found = _instance(annotation, image, skeleton, where)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(
                f"an annotation that cannot be read ({reason})", where, "correct this entry"
            ) from error
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            instances.append(found)
    return Labels(source=annotations, skeleton=skeleton, instances=instances, skipped=skipped)


def _instance(
    annotation: Mapping[str, Any], image: Mapping[str, Any], skeleton: Skeleton, where: str
) -> Instance | Skipped:
    item = f"annotation {annotation['id']} ({_file_name(image)})"
    points = annotation.get("keypoints") or []
    if points and len(points) != 3 * len(skeleton):
        raise DataError(
            f"{len(points)} keypoint numbers where {skeleton.name!r} has {len(skeleton)} keypoints",
            where,
            f"give 3 numbers a keypoint ({3 * len(skeleton)}), or another --skeleton",
        )
    if annotation.get("iscrowd"):
        return Skipped(item, "crowd")
    xyv = np.asarray(points, np.float64).reshape(-1, 3)
    if not np.isfinite(xyv).all():
        raise DataError("a keypoint that is no number", where, "correct this entry")
    if xyv.size == 0 or xyv.max() <= 0:
        return Skipped(item, "no keypoints")
    visible = xyv[:, 2] > 0
    if not visible.any():
        return Skipped(item, "no keypoints", "coordinates, but every visibility is 0")
    box = _box(annotation, image, xyv[visible, :2])
    if box is None:
        return Skipped(item, "empty box", f"bbox {annotation.get('bbox')}")
    return Instance(
        id=int(annotation["id"]),
        image_id=int(annotation["image_id"]),
        image=_file_name(image),
        category_id=int(annotation.get("category_id", 1)),
        box_xywh=box,
        area=float(annotation.get("area") or box[2] * box[3]),
        head_size=math.nan,
        image_xy=np.where(visible[:, None], xyv[:, :2], 0.0),
        visible=visible,
    )


def _box(
    annotation: Mapping[str, Any], image: Mapping[str, Any], points: np.ndarray
) -> tuple[float, float, float, float] | None:
    """The box, clipped as published: a box of the whole W x H picture becomes (W-1) x (H-1).

    A box of four zeros (CVAT writes them beside keypoints) is taken around the points.
    """
    x, y, w, h = (float(side) for side in annotation.get("bbox") or (0, 0, 0, 0))
    if not math.isfinite(x + y + w + h):
        raise ValueError(f"bbox {annotation['bbox']}")
    if (x, y, w, h) == (0, 0, 0, 0):
        (x, y), (w, h) = points.min(0), np.ptp(points, 0) + 1
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(float(image.get("width") or math.inf) - 1, x1 + max(0.0, w - 1))
    y2 = min(float(image.get("height") or math.inf) - 1, y1 + max(0.0, h - 1))
    if x2 <= x1 or y2 <= y1:
        return None
    return x1, y1, x2 - x1, y2 - y1


def _skeleton_of(document: Mapping[str, Any], path: Path) -> Skeleton:
    used = Counter(annotation.get("category_id") for annotation in document["annotations"])
    categories = [c for c in document.get("categories", []) if c.get("keypoints")]
    found = {tuple(c["keypoints"]): c for c in reversed(categories) if c.get("id") in used}
    if not found:
        found = {tuple(c["keypoints"]): c for c in categories}
    if len(found) != 1:
        has = "no keypoints" if not found else f"{len(found)} different lists of keypoints"
        raise DataError(
            f"categories with {has}: the skeleton is not clear",
            f"{path}: categories",
            "name it: --skeleton mpii, atrw, coco, or a YAML file",
        )
    (category,) = found.values()
    several = sum(1 for c in categories if c.get("id") in used) > 1
    return from_coco_category(category, name=path.stem if several else None)


def _image_of(
    annotation: Mapping[str, Any], images: Mapping[Any, Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    if annotation["image_id"] not in images:
        raise DataError(
            f"image_id {annotation['image_id']!r} is not among the images",
            where,
            "add its record to `images`, or remove the annotation",
        )
    return images[annotation["image_id"]]


def _file_name(image: Mapping[str, Any]) -> str:
    return str(image.get("file_name") or image["filename"])


def _by_id(records: list[Any], kind: str, path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for at, record in enumerate(records):
        where = f"{path.name}: {kind}s[{at}]"
        if not isinstance(record, dict) or not isinstance(record.get("id"), int):
            raise DataError(f"an {kind} without a whole number as id", where, "correct this entry")
        if record["id"] in found:
            raise DataError(f"two {kind}s with id {record['id']}", where, "give each its own id")
        found[record["id"]] = record
    return found


def _load(path: Path) -> dict[str, Any]:
    check_file(path, "--annotations")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(
            "a file that is no JSON", f"{path}: {error}", "give the COCO annotation file"
        ) from error
    lists = ("images", "annotations")
    if not isinstance(document, dict) or any(
        not isinstance(document.get(name), list) for name in lists
    ):
        raise DataError(
            "a JSON file that is no COCO document",
            f"{path}: the lists `images` and `annotations` are not both there",
            "give the COCO annotation file (`hrnet-ray prepare mpii` reads MPII's)",
        )
    return document


def image_names(annotations: Path) -> Iterator[str]:
    """The file names of all picture records, used or not."""
    for image in _load(annotations)["images"]:
        yield _file_name(image)

"""COCO-form annotations to instances: COCO, ATRW (as downloaded and republished), AP-10K, exports.

ATRW as downloaded names a picture by `filename` where COCO says `file_name`; both are read.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from hrnet_ray.data.labels import (
    Instance,
    Labels,
    Skipped,
    check_file,
    file_name,
    number,
    numbers,
)
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, from_coco_category, from_dict, to_dict


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
            found = _instance(annotation, _image_of(annotation, images, where), skeleton, where)
        except ValueError as error:
            raise DataError(
                f"an annotation that cannot be read ({error})", where, "correct this entry"
            ) from error
        if isinstance(found, Skipped):
            skipped.append(found)
        else:
            instances.append(found)
    return Labels(source=annotations, skeleton=skeleton, instances=instances, skipped=skipped)


def _instance(
    annotation: Mapping[str, Any], image: Mapping[str, Any], skeleton: Skeleton, where: str
) -> Instance | Skipped:
    name = _file_name(image)
    item = f"annotation {annotation['id']} ({name})"
    xyv = _keypoints(annotation, skeleton, where)
    if annotation.get("iscrowd") not in (None, 0, 1):
        raise ValueError(f"iscrowd is {annotation['iscrowd']!r:.60} where 0 or 1 is wanted")
    if annotation.get("iscrowd"):
        return Skipped(item, "crowd")
    if not xyv.any():
        return Skipped(item, "no keypoints")
    visible = xyv[:, 2] > 0
    if not visible.any():
        return Skipped(item, "no keypoints", "coordinates, but every visibility is 0")
    box = _box(annotation, image, xyv[visible, :2])
    if box is None:
        return Skipped(item, "empty box", f"bbox {annotation.get('bbox')}")
    return Instance(
        id=annotation["id"],
        image_id=image["id"],
        image=name,
        category_id=_category_id(annotation),
        box_xywh=box,
        area=_not_negative(annotation, "area") or box[2] * box[3],
        head_size=math.nan,
        image_xy=np.where(visible[:, None], xyv[:, :2], 0.0),
        visible=visible,
    )


def _category_id(annotation: Mapping[str, Any]) -> int:
    category_id = annotation.get("category_id", 1)
    if not _is_id(category_id):
        raise ValueError(f"category_id is {category_id!r:.60} where a whole number is wanted")
    return category_id


def _keypoints(annotation: Mapping[str, Any], skeleton: Skeleton, where: str) -> np.ndarray:
    """(x, y, visibility) as float64 [K, 3]; all zero where there are none."""
    points = annotation.get("keypoints")
    if points in (None, []):
        return np.zeros((len(skeleton), 3))
    if not isinstance(points, list):
        raise ValueError(f"keypoints is {points!r:.60} where a list is wanted")
    if len(points) != 3 * len(skeleton):
        raise DataError(
            f"{len(points)} keypoint numbers where {skeleton.name!r} has {len(skeleton)} keypoints",
            where,
            f"give 3 numbers a keypoint ({3 * len(skeleton)}), or another --skeleton",
        )
    return numbers(points, len(points), "keypoints").reshape(-1, 3)


def _box(
    annotation: Mapping[str, Any], image: Mapping[str, Any], points: np.ndarray
) -> tuple[float, float, float, float] | None:
    """The box, clipped as published: a box of the whole W x H picture becomes (W-1) x (H-1).

    A box of four zeros (CVAT writes them beside keypoints) is taken around the points.
    """
    bbox = annotation.get("bbox")
    x, y, w, h = numbers([0, 0, 0, 0] if bbox in (None, []) else bbox, 4, "bbox").tolist()
    if (x, y, w, h) == (0, 0, 0, 0):
        (x, y), (w, h) = points.min(0).tolist(), (np.ptp(points, 0) + 1).tolist()
    width = _not_negative(image, "width") or math.inf
    height = _not_negative(image, "height") or math.inf
    x1, y1 = max(0.0, x), max(0.0, y)
    x2 = min(width - 1, x1 + max(0.0, w - 1))
    y2 = min(height - 1, y1 + max(0.0, h - 1))
    if x2 <= x1 or y2 <= y1:
        return None
    return x1, y1, x2 - x1, y2 - y1


def _not_negative(record: Mapping[str, Any], key: str) -> float:
    """A size; 0 where the record does not tell."""
    if record.get(key) is None:
        return 0.0
    size = number(record[key], key)
    if size < 0:
        raise ValueError(f"{key} is {size:g}")
    return size


def _skeleton_of(document: Mapping[str, Any], path: Path) -> Skeleton:
    """The skeleton on which all categories that are used agree."""
    categories = _categories(document, path)
    ids = [annotation.get("category_id") for annotation in document["annotations"]]
    used_ids = {id for id in ids if isinstance(id, int)}
    used = [category for category in categories if category["id"] in used_ids] or categories
    lists = {tuple(category["keypoints"]) for category in used}
    if len(lists) != 1:
        has = "no keypoints" if not lists else f"{len(lists)} different lists of keypoints"
        raise DataError(
            f"categories with {has}: the skeleton is not clear",
            f"{path}: categories",
            "name it: --skeleton mpii, atrw, coco, or a YAML file",
        )
    where = f"{path.name}: category {used[0]['id']}"
    try:
        found = from_coco_category(used[0], name=path.stem if len(used) > 1 else None)
        return from_dict(to_dict(found), where=where)  # as a manifest will bring it back
    except DataError as error:
        raise DataError(error.what, f"{where}, {error.where}", error.fix) from error
    except (ValueError, TypeError, IndexError, AttributeError, OverflowError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(
            f"a category that cannot be read ({reason})", where, "correct it, or name --skeleton"
        ) from error


def _categories(document: Mapping[str, Any], path: Path) -> list[dict[str, Any]]:
    """Those with names of keypoints."""
    categories = document.get("categories") or []
    if not isinstance(categories, list):
        categories = [categories]  # told as the first that does not fit
    for at, category in enumerate(categories):
        names = category.get("keypoints") or [] if isinstance(category, dict) else None
        if (
            not isinstance(names, list)
            or not all(isinstance(name, str) for name in names)
            or not isinstance(category.get("id"), int)
        ):
            raise DataError(
                "a category without a whole number as id, or whose keypoints are not names",
                f"{path.name}: categories[{at}]",
                "correct this entry, or name the skeleton: --skeleton",
            )
    return [category for category in categories if category.get("keypoints")]


def _image_of(
    annotation: Mapping[str, Any], images: Mapping[int, Mapping[str, Any]], where: str
) -> Mapping[str, Any]:
    image_id = annotation.get("image_id")
    if not _is_id(image_id) or image_id not in images:
        raise DataError(
            f"image_id {image_id!r:.60} is not among the images",
            where,
            "add its record to `images`, or remove the annotation",
        )
    return images[image_id]


def _file_name(image: Mapping[str, Any]) -> str:
    key = "filename" if image.get("file_name") is None and "filename" in image else "file_name"
    return file_name(image.get(key), f"{key} of image {image['id']}")


def _by_id(records: list[Any], kind: str, path: Path) -> dict[int, dict[str, Any]]:
    found: dict[int, dict[str, Any]] = {}
    for at, record in enumerate(records):
        where = f"{path.name}: {kind}s[{at}]"
        if not isinstance(record, dict) or not _is_id(record.get("id")):
            raise DataError(f"an {kind} without a whole number as id", where, "correct this entry")
        if record["id"] in found:
            raise DataError(f"two {kind}s with id {record['id']}", where, "give each its own id")
        found[record["id"]] = record
    return found


def _is_id(value: object) -> TypeGuard[int]:
    """A whole number that a column of 64 bits can hold."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**63


def _load(path: Path) -> dict[str, Any]:
    check_file(path, "--annotations")
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
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
    images = _by_id(_load(annotations)["images"], "image", annotations)
    for at, image in enumerate(images.values()):
        try:
            yield _file_name(image)
        except ValueError as error:
            where = f"{annotations.name}: images[{at}]"
            raise DataError(
                f"an image that cannot be read ({error})", where, "correct this entry"
            ) from error

"""A detector's boxes, in which poses are looked for instead of the true ones."""

import json
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import check_file, number, numbers, shown
from hrnet_ray.errors import DataError, shortened

OTHER_PICTURE, OTHER_CATEGORY, EMPTY = "other picture", "other category", "empty box"


@dataclass(frozen=True)
class Boxes:
    """N boxes, ordered by their pictures; `left_out` counts those that were read besides."""

    picture: np.ndarray
    """int64 [N]: the place of its picture among the pictures of the split."""
    category_id: np.ndarray
    box_xywh: np.ndarray
    """float64 [N, 4], image pixels."""
    score: np.ndarray
    """float64 [N]: how sure the detector is."""
    left_out: Mapping[str, int]

    @property
    def read(self) -> int:
        return len(self.score) + sum(self.left_out.values())


def read_detections(
    path: Path, *, pictures: Mapping[int | str, int], categories: Set[int]
) -> Boxes:
    """Read COCO detections: a JSON list of {image_id, category_id, bbox, score}.

    `pictures` gives the place of a picture by its id and by its file name, and either may stand in
    `image_id`. What is of no such picture or category, or has no area, is counted in `left_out`.

    Raises:
        DataError: the file is no such list, or nothing of it is left.
    """
    check_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, list):
            raise ValueError(f"the file holds {shown(document)} where a list is wanted")
        found = [_detection(entry, at) for at, entry in enumerate(document)]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "detections that cannot be read",
            f"--boxes {path}: {error}",
            "write COCO results: "
            '[{"image_id": 7, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, ...]',
        ) from error
    reasons = [_reason(one, pictures, categories) for one in found]
    kept = [one for one, reason in zip(found, reasons, strict=True) if not reason]
    left_out = dict(Counter(filter(None, reasons)))
    if not kept:
        raise _nothing_left(path, found, left_out, categories)
    return _ordered(kept, pictures, left_out)


Detection = tuple[int | str, int, np.ndarray, float]


def _detection(entry: Any, at: int) -> Detection:
    where = f"[{at}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} is {shown(entry)} where an object is wanted")
    if missing := [k for k in ("image_id", "category_id", "bbox", "score") if k not in entry]:
        raise ValueError(f"{where} has no {missing[0]}")
    image, category = entry["image_id"], entry["category_id"]
    if type(image) not in (int, str) or type(category) is not int:
        raise ValueError(f"{where} is of image {shown(image)} and category {shown(category)}")
    box = numbers(entry["bbox"], 4, f"{where}.bbox")
    return image, category, box, number(entry["score"], f"{where}.score")


def _reason(
    detection: Detection, pictures: Mapping[int | str, int], categories: Set[int]
) -> str | None:
    """Why a detection is left out, if it is."""
    image, category, box, _ = detection
    if image not in pictures:
        return OTHER_PICTURE
    if category not in categories:
        return OTHER_CATEGORY
    return None if min(box[2:]) > 0 else EMPTY


def _ordered(
    kept: list[Detection], pictures: Mapping[int | str, int], left_out: Mapping[str, int]
) -> Boxes:
    places = np.array([pictures[image] for image, *_ in kept], np.int64)
    order = np.argsort(places, kind="stable")
    return Boxes(
        picture=places[order],
        category_id=np.array([category for _, category, *_ in kept], np.int64)[order],
        box_xywh=np.array([box for *_, box, _ in kept])[order],
        score=np.array([score for *_, score in kept])[order],
        left_out=left_out,
    )


def _nothing_left(
    path: Path, found: list[Detection], left_out: Mapping[str, int], categories: Set[int]
) -> DataError:
    if not found:
        return DataError("no detections", f"--boxes {path}", "give a file with some")
    if OTHER_CATEGORY in left_out:
        theirs = shortened([*map(str, sorted({category for _, category, *_ in found}))])
        ours = shortened([*map(str, sorted(categories))])
        return DataError(
            "detections of other categories than the data",
            f"--boxes {path}: category_id {theirs} | data: {ours}",
            "write the data's category_id into the detections of the same species",
        )
    images = shortened([str(image) for image in dict.fromkeys(image for image, *_ in found)])
    return DataError(
        "detections without one that can be used",
        f"--boxes {path}: {', '.join(f'{n:,} {why}' for why, n in left_out.items())}; "
        f"image_id {images}",
        "make them on the pictures of this split, with the image ids of its annotations",
    )

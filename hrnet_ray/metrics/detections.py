"""Boxes of a detector in COCO results format, for evaluation without true boxes."""

import json
from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import format_value, parse_number, parse_numbers, require_file
from hrnet_ray.errors import DataError, format_list

UNKNOWN_IMAGE, UNKNOWN_CATEGORY, EMPTY_BOX = "other image", "other category", "empty box"


@dataclass(frozen=True)
class DetectedBoxes:
    """N boxes sorted by image; `skipped_counts` counts unused boxes by reason."""

    image_index: np.ndarray
    """int64 [N]: index into the images of the split."""
    category_id: np.ndarray
    box_xywh: np.ndarray
    """float64 [N, 4], image pixels."""
    score: np.ndarray
    """float64 [N]: score of the detector."""
    skipped_counts: Mapping[str, int]

    @property
    def num_read(self) -> int:
        return len(self.score) + sum(self.skipped_counts.values())


def load_coco_detections(
    path: Path, *, image_indices: Mapping[int | str, int], category_ids: Set[int]
) -> DetectedBoxes:
    """Read COCO detections: a JSON list of {image_id, category_id, bbox, score}.

    `image_indices` maps image ids and file names to image indices; `image_id` may hold either one.
    A box with an unknown image or category, or without area, is counted in `skipped_counts`.

    Raises:
        DataError: the file is no such list, or no box is usable.
    """
    require_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, list):
            raise ValueError(f"expected a list, got {format_value(document)}")
        detections = [_parse_detection(entry, index) for index, entry in enumerate(document)]
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            "the detections cannot be read",
            f"--boxes {path}: {error}",
            'write COCO results: [{"image_id": 7, "category_id": 1, "bbox": [x, y, w, h], "score": 0.9}, ...]',
        ) from error
    reasons = [_find_skip_reason(entry, image_indices, category_ids) for entry in detections]
    usable = [entry for entry, reason in zip(detections, reasons, strict=True) if not reason]
    skipped = dict(Counter(filter(None, reasons)))
    if not usable:
        raise _make_no_detections_error(path, detections, skipped, category_ids)
    return _sort_by_image(usable, image_indices, skipped)


Detection = tuple[int | str, int, np.ndarray, float]


def _parse_detection(entry: Any, entry_index: int) -> Detection:
    where = f"[{entry_index}]"
    if not isinstance(entry, dict):
        raise ValueError(f"{where} must be an object, got {format_value(entry)}")
    if missing := [k for k in ("image_id", "category_id", "bbox", "score") if k not in entry]:
        raise ValueError(f"{where} has no {missing[0]}")
    image, category = entry["image_id"], entry["category_id"]
    if type(image) not in (int, str) or type(category) is not int:
        raise ValueError(
            f"{where} has an invalid image_id {format_value(image)} or category_id {format_value(category)}"
        )
    box = parse_numbers(entry["bbox"], 4, f"{where}.bbox")
    return image, category, box, parse_number(entry["score"], f"{where}.score")


def _find_skip_reason(
    detection: Detection, image_indices: Mapping[int | str, int], category_ids: Set[int]
) -> str | None:
    """Return why a detection is unusable, or None."""
    image, category, box, _ = detection
    if image not in image_indices:
        return UNKNOWN_IMAGE
    if category not in category_ids:
        return UNKNOWN_CATEGORY
    return None if min(box[2:]) > 0 else EMPTY_BOX


def _sort_by_image(
    detections: list[Detection],
    image_indices: Mapping[int | str, int],
    skipped_counts: Mapping[str, int],
) -> DetectedBoxes:
    image_index = np.array([image_indices[image] for image, *_ in detections], np.int64)
    order = np.argsort(image_index, kind="stable")
    return DetectedBoxes(
        image_index=image_index[order],
        category_id=np.array([category for _, category, *_ in detections], np.int64)[order],
        box_xywh=np.array([box for *_, box, _ in detections])[order],
        score=np.array([score for *_, score in detections])[order],
        skipped_counts=skipped_counts,
    )


def _make_no_detections_error(
    path: Path,
    detections: list[Detection],
    skipped_counts: Mapping[str, int],
    category_ids: Set[int],
) -> DataError:
    if not detections:
        return DataError("the file holds no detections", f"--boxes {path}", "use a file with detections")
    if UNKNOWN_CATEGORY in skipped_counts:
        detected = format_list([*map(str, sorted({category for _, category, *_ in detections}))])
        expected = format_list([*map(str, sorted(category_ids))])
        return DataError(
            "the detections and the data have different categories",
            f"--boxes {path}: category_id {detected} | data: {expected}",
            "set category_id of the detections to that of the same category in the data",
        )
    images = format_list([str(image) for image in dict.fromkeys(image for image, *_ in detections)])
    return DataError(
        "none of the detections is usable",
        f"--boxes {path}: {', '.join(f'{n:,} {why}' for why, n in skipped_counts.items())}; image_id {images}",
        "detect on the images of this split, and use the image ids of its annotations",
    )

"""The boxes that a user gives `hrnet-ray predict`: in each of them one pose is looked for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hrnet_ray.data.annotations import format_value, parse_number, parse_numbers, require_file
from hrnet_ray.data.video.reader import VIDEO_SUFFIXES
from hrnet_ray.errors import DataError, format_list

T = TypeVar("T")

FRAME_NAME_PATTERN = re.compile(r"(.+)#(\d+)")
"""The name of a video's frame: `clip.mp4#12`, counted from 0."""
BoxesByName = Mapping[str, list[list[float]]]
"""By the name that the file gives a picture: x, y, width, height, and how sure the detector is."""


@dataclass(frozen=True)
class BoxFile:
    """Boxes of the pictures and videos that have some."""

    boxes_by_path: Mapping[Path, np.ndarray]
    """float64 [N, 5]: x, y, width, height, and how sure the detector is; labelled ones have 1."""
    num_empty: int
    """Boxes without area, which are left out."""
    frame_boxes_by_path: Mapping[Path, Mapping[int, np.ndarray]] = field(default_factory=dict)
    """Those that are given for single frames of a video; its other frames have those in `of`."""

    def get_boxes(self, path: Path, frame_number: int | None) -> np.ndarray | None:
        """The boxes on a picture (`frame` is None) or a frame; None where there are none."""
        whole = self.boxes_by_path.get(path)
        return (
            whole
            if frame_number is None
            else self.frame_boxes_by_path.get(path, {}).get(frame_number, whole)
        )


def load_box_file(path: Path, input_paths: Sequence[Path]) -> BoxFile:
    """Read a plain mapping, a COCO annotation file, or a list of COCO detections.

    Raises:
        DataError: the file is in none of these forms, names pictures by numbers that are no names,
            or has no box for any of `pictures`.
    """
    require_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        named = _parse_document(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"boxes that cannot be read ({type(error).__name__}: {error})",
            f"--boxes {path}",
            'write {"a.jpg": [[x, y, w, h]]}, or give a COCO annotation file or COCO detections',
        ) from error
    if isinstance(document, list):
        _validate_image_ids(path, document, input_paths)
    whole = {name: [box for box in boxes if min(box[2:4]) > 0] for name, boxes in named.items()}
    empty = sum(map(len, named.values())) - sum(map(len, whole.values()))
    still, moving = _split_frame_boxes(whole)
    found = {picture: _find_by_image_name(picture, still) for picture in input_paths}
    frames = {picture: _find_by_image_name(picture, moving) for picture in input_paths}
    given = BoxFile(
        {picture: np.array(boxes) for picture, boxes in found.items() if boxes},
        empty,
        {
            video: {number: np.array(boxes).reshape(-1, 5) for number, boxes in by_number.items()}
            for video, by_number in frames.items()
            if by_number
        },
    )
    some = any(
        len(boxes) for frames in given.frame_boxes_by_path.values() for boxes in frames.values()
    )
    if not given.boxes_by_path and not some:
        raise _build_no_match_error(path, named, empty, input_paths)
    return given


def _parse_document(document: Any) -> BoxesByName:
    if isinstance(document, list):
        return _parse_detections(document)
    if "annotations" in document:
        return _parse_annotations(document)
    return {
        name: [_parse_box(box, f"{name}[{at}]") for at, box in enumerate(boxes)]
        for name, boxes in document.items()
    }


def _parse_annotations(document: Mapping[str, Any]) -> BoxesByName:
    names = {i["id"]: i.get("file_name") or i["filename"] for i in document["images"]}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for at, annotation in enumerate(document["annotations"]):
        box = _parse_box(annotation["bbox"], f"annotations[{at}].bbox")
        boxes[names[annotation["image_id"]]].append(box)
    return boxes


def _parse_detections(document: list[Any]) -> BoxesByName:
    boxes: dict[str, list[list[float]]] = {}
    for at, detection in enumerate(document):
        if not isinstance(detection, dict):
            raise ValueError(f"[{at}] is {format_value(detection)} where an object is wanted")
        image = detection["image_id"]
        if type(image) not in (int, str):
            raise ValueError(f"[{at}].image_id is {format_value(image)}")
        score = parse_number(detection.get("score", 1.0), f"[{at}].score")
        box = _parse_box(detection["bbox"], f"[{at}].bbox", score)
        boxes.setdefault(str(image), []).append(box)
    return boxes


def _parse_box(value: object, where: str, score: float = 1.0) -> list[float]:
    return [*parse_numbers(value, 4, where).tolist(), score]


def _validate_image_ids(path: Path, document: list[Any], input_paths: Sequence[Path]) -> None:
    """Detections alone do not say which file has which id: a number must be a file's name.

    Where all files are named by numbers, another number is a picture that is not here.
    """
    known = {name for picture in input_paths for name in _iter_image_names(picture)}
    ids = {one["image_id"] for one in document if type(one["image_id"]) is int}
    strange = [str(image) for image in sorted(ids) if str(image) not in known]
    if strange and not all(picture.stem.isdecimal() for picture in input_paths):
        raise DataError(
            "detections whose image_id is a number, and no picture's name",
            f"--boxes {path}: image_id {format_list(strange)}",
            'write the file\'s name there: {"image_id": "a.jpg", ...}',
        )


def _split_frame_boxes(
    boxes_by_name: BoxesByName,
) -> tuple[BoxesByName, Mapping[str, Mapping[int, list[list[float]]]]]:
    """What is named as a picture or a video, and what as a frame: by the video, then by number."""
    still: dict[str, list[list[float]]] = {}
    moving: dict[str, dict[int, list[list[float]]]] = {}
    for name, boxes in boxes_by_name.items():
        frame = FRAME_NAME_PATTERN.fullmatch(name)
        if frame and Path(frame[1]).suffix.lower() in VIDEO_SUFFIXES:
            moving.setdefault(frame[1], {})[int(frame[2])] = boxes
        else:
            still[name] = boxes
    return still, moving


def _find_by_image_name(input_path: Path, values_by_name: Mapping[str, T]) -> T | None:
    return next(
        (values_by_name[name] for name in _iter_image_names(input_path) if name in values_by_name),
        None,
    )


def _iter_image_names(input_path: Path) -> Iterator[str]:
    """What a file may call a picture, the fullest first: `train/7.jpg`, `7.jpg`, `train/7`, `7`.

    COCO's 000000000007.jpg is 7 as well.
    """
    whole = input_path.absolute()
    for parts in (whole.parts, whole.with_suffix("").parts):
        for at in range(len(parts)):
            yield str(Path(*parts[at:]))
    if input_path.stem.isdecimal():
        yield str(int(input_path.stem))


def _build_no_match_error(
    path: Path, boxes_by_name: BoxesByName, num_empty: int, input_paths: Sequence[Path]
) -> DataError:
    theirs = f"has {format_list(list(boxes_by_name)) or 'nothing'}"
    ours = format_list([picture.name for picture in input_paths])
    left_out = f", {num_empty:,} boxes without area" if num_empty else ""
    return DataError(
        "boxes for none of the pictures",
        f"--boxes {path}: {theirs}{left_out} | pictures: {ours}",
        "name the pictures there as they are named below --input",
    )

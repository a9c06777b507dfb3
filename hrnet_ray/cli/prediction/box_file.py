"""The boxes that a user gives `hrnet-ray predict`: in each of them one pose is looked for."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from hrnet_ray.data.annotations import check_file, number, numbers, shown
from hrnet_ray.data.video.reader import VIDEO_ENDINGS
from hrnet_ray.errors import DataError, shortened

T = TypeVar("T")

FRAME = re.compile(r"(.+)#(\d+)")
"""The name of a video's frame: `clip.mp4#12`, counted from 0."""
Named = Mapping[str, list[list[float]]]
"""By the name that the file gives a picture: x, y, width, height, and how sure the detector is."""


@dataclass(frozen=True)
class GivenBoxes:
    """Boxes of the pictures and videos that have some."""

    of: Mapping[Path, np.ndarray]
    """float64 [N, 5]: x, y, width, height, and how sure the detector is; labelled ones have 1."""
    empty: int
    """Boxes without area, which are left out."""
    of_frames: Mapping[Path, Mapping[int, np.ndarray]] = field(default_factory=dict)
    """Those that are given for single frames of a video; its other frames have those in `of`."""

    def on(self, path: Path, frame: int | None) -> np.ndarray | None:
        """The boxes on a picture (`frame` is None) or a frame; None where there are none."""
        whole = self.of.get(path)
        return whole if frame is None else self.of_frames.get(path, {}).get(frame, whole)


def read_boxes(path: Path, pictures: Sequence[Path]) -> GivenBoxes:
    """Read a plain mapping, a COCO annotation file, or a list of COCO detections.

    Raises:
        DataError: the file is in none of these forms, names pictures by numbers that are no names,
            or has no box for any of `pictures`.
    """
    check_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        named = _named(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"boxes that cannot be read ({type(error).__name__}: {error})",
            f"--boxes {path}",
            'write {"a.jpg": [[x, y, w, h]]}, or give a COCO annotation file or COCO detections',
        ) from error
    if isinstance(document, list):
        _check_numbers(path, document, pictures)
    whole = {name: [box for box in boxes if min(box[2:4]) > 0] for name, boxes in named.items()}
    empty = sum(map(len, named.values())) - sum(map(len, whole.values()))
    still, moving = _frames_apart(whole)
    found = {picture: _of_picture(picture, still) for picture in pictures}
    frames = {picture: _of_picture(picture, moving) for picture in pictures}
    given = GivenBoxes(
        {picture: np.array(boxes) for picture, boxes in found.items() if boxes},
        empty,
        {
            video: {number: np.array(boxes).reshape(-1, 5) for number, boxes in by_number.items()}
            for video, by_number in frames.items()
            if by_number
        },
    )
    some = any(len(boxes) for frames in given.of_frames.values() for boxes in frames.values())
    if not given.of and not some:
        raise _nothing_left(path, named, empty, pictures)
    return given


def _named(document: Any) -> Named:
    if isinstance(document, list):
        return _of_detections(document)
    if "annotations" in document:
        return _of_annotations(document)
    return {
        name: [_box(box, f"{name}[{at}]") for at, box in enumerate(boxes)]
        for name, boxes in document.items()
    }


def _of_annotations(document: Mapping[str, Any]) -> Named:
    names = {i["id"]: i.get("file_name") or i["filename"] for i in document["images"]}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for at, annotation in enumerate(document["annotations"]):
        box = _box(annotation["bbox"], f"annotations[{at}].bbox")
        boxes[names[annotation["image_id"]]].append(box)
    return boxes


def _of_detections(document: list[Any]) -> Named:
    boxes: dict[str, list[list[float]]] = {}
    for at, detection in enumerate(document):
        if not isinstance(detection, dict):
            raise ValueError(f"[{at}] is {shown(detection)} where an object is wanted")
        image = detection["image_id"]
        if type(image) not in (int, str):
            raise ValueError(f"[{at}].image_id is {shown(image)}")
        score = number(detection.get("score", 1.0), f"[{at}].score")
        box = _box(detection["bbox"], f"[{at}].bbox", score)
        boxes.setdefault(str(image), []).append(box)
    return boxes


def _box(value: object, where: str, score: float = 1.0) -> list[float]:
    return [*numbers(value, 4, where).tolist(), score]


def _check_numbers(path: Path, document: list[Any], pictures: Sequence[Path]) -> None:
    """Detections alone do not say which file has which id: a number must be a file's name.

    Where all files are named by numbers, another number is a picture that is not here.
    """
    known = {name for picture in pictures for name in _names_of(picture)}
    ids = {one["image_id"] for one in document if type(one["image_id"]) is int}
    strange = [str(image) for image in sorted(ids) if str(image) not in known]
    if strange and not all(picture.stem.isdecimal() for picture in pictures):
        raise DataError(
            "detections whose image_id is a number, and no picture's name",
            f"--boxes {path}: image_id {shortened(strange)}",
            'write the file\'s name there: {"image_id": "a.jpg", ...}',
        )


def _frames_apart(named: Named) -> tuple[Named, Mapping[str, Mapping[int, list[list[float]]]]]:
    """What is named as a picture or a video, and what as a frame: by the video, then by number."""
    still: dict[str, list[list[float]]] = {}
    moving: dict[str, dict[int, list[list[float]]]] = {}
    for name, boxes in named.items():
        frame = FRAME.fullmatch(name)
        if frame and Path(frame[1]).suffix.lower() in VIDEO_ENDINGS:
            moving.setdefault(frame[1], {})[int(frame[2])] = boxes
        else:
            still[name] = boxes
    return still, moving


def _of_picture(picture: Path, named: Mapping[str, T]) -> T | None:
    return next((named[name] for name in _names_of(picture) if name in named), None)


def _names_of(picture: Path) -> Iterator[str]:
    """What a file may call a picture, the fullest first: `train/7.jpg`, `7.jpg`, `train/7`, `7`.

    COCO's 000000000007.jpg is 7 as well.
    """
    whole = picture.absolute()
    for parts in (whole.parts, whole.with_suffix("").parts):
        for at in range(len(parts)):
            yield str(Path(*parts[at:]))
    if picture.stem.isdecimal():
        yield str(int(picture.stem))


def _nothing_left(path: Path, named: Named, empty: int, pictures: Sequence[Path]) -> DataError:
    theirs = f"has {shortened(list(named)) or 'nothing'}"
    ours = shortened([picture.name for picture in pictures])
    left_out = f", {empty:,} boxes without area" if empty else ""
    return DataError(
        "boxes for none of the pictures",
        f"--boxes {path}: {theirs}{left_out} | pictures: {ours}",
        "name the pictures there as they are named below --pictures",
    )

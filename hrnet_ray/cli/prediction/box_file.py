"""Read the file of `hrnet-ray predict --boxes` and match its boxes to the inputs."""

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
"""The name of a video frame: `clip.mp4#12`, counted from 0."""
BoxesByName = Mapping[str, list[list[float]]]
"""Boxes by image name as in the file; a box is x, y, width, height and score."""


@dataclass(frozen=True)
class BoxFile:
    """Boxes of the images and videos that have at least one."""

    boxes_by_path: Mapping[Path, np.ndarray]
    """float64 [N, 5]: x, y, width, height and score; labelled boxes have score 1."""
    num_empty: int
    """Number of boxes without area, which are left out."""
    frame_boxes_by_path: Mapping[Path, Mapping[int, np.ndarray]] = field(default_factory=dict)
    """Boxes of single video frames; the other frames use the video's entry in `boxes_by_path`."""

    def __bool__(self) -> bool:
        """Whether any image, video or frame has a box."""
        frames = [boxes for by_frame in self.frame_boxes_by_path.values() for boxes in by_frame.values()]
        return bool(self.boxes_by_path) or any(map(len, frames))

    def get_boxes(self, path: Path, frame_number: int | None) -> np.ndarray | None:
        """Return the boxes of an image (`frame_number` is None) or of a frame; None if unlisted.

        Per-frame boxes override per-video boxes.
        """
        boxes = self.boxes_by_path.get(path)
        if frame_number is None:
            return boxes
        return self.frame_boxes_by_path.get(path, {}).get(frame_number, boxes)


def load_box_file(path: Path, input_paths: Sequence[Path]) -> BoxFile:
    """Read a plain mapping, a COCO annotation file, or a list of COCO detections.

    Raises:
        DataError: the file has none of these forms, its image ids are numbers that name no input,
            or it has no box for any of `input_paths`.
    """
    require_file(path, "--boxes")
    try:
        document = json.loads(path.read_bytes())
        boxes_by_name = parse_boxes(document)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"invalid --boxes: {type(error).__name__}: {error}",
            f"--boxes {path}",
            'write {"a.jpg": [[x, y, w, h]]}, or give a COCO annotation file or COCO detections',
        ) from error
    if isinstance(document, list) and (unknown := find_unknown_ids(document, input_paths)):
        raise DataError(
            "image_id must be a file name, got numbers that name no input",
            f"--boxes {path}: image_id {format_list(unknown)}",
            'write the file\'s name: {"image_id": "a.jpg", ...}',
        )
    box_file = match_boxes(boxes_by_name, input_paths)
    if not box_file:
        raise _build_no_match_error(path, boxes_by_name, box_file.num_empty, input_paths)
    return box_file


def parse_boxes(document: Any) -> BoxesByName:
    """Parse the JSON document of a box file.

    Raises:
        ValueError, KeyError, TypeError, AttributeError: the document has none of the three forms.
    """
    if isinstance(document, list):
        return _parse_detections(document)
    if "annotations" in document:
        return _parse_annotations(document)
    return {
        name: [_parse_box(box, f"{name}[{index}]") for index, box in enumerate(boxes)]
        for name, boxes in document.items()
    }


def find_unknown_ids(detections: Sequence[Any], input_paths: Sequence[Path]) -> list[str]:
    """Return the numeric image ids that name none of the inputs.

    Detections do not map ids to files, so a number must be a file's name. If all inputs have
    numeric names, other numbers are images that are not among the inputs, and none is unknown.
    """
    if all(path.stem.isdecimal() for path in input_paths):
        return []
    known = {name for path in input_paths for name in _iter_image_names(path)}
    ids = {entry["image_id"] for entry in detections if type(entry["image_id"]) is int}
    return [str(image_id) for image_id in sorted(ids) if str(image_id) not in known]


def match_boxes(boxes_by_name: BoxesByName, input_paths: Sequence[Path]) -> BoxFile:
    """Assign the boxes with an area to the inputs, by the longest name that matches."""
    valid = {name: [box for box in boxes if min(box[2:4]) > 0] for name, boxes in boxes_by_name.items()}
    num_empty = sum(map(len, boxes_by_name.values())) - sum(map(len, valid.values()))
    whole, single_frames = _split_frame_boxes(valid)
    boxes_by_path = {path: _find_by_image_name(path, whole) for path in input_paths}
    frames_by_path = {path: _find_by_image_name(path, single_frames) for path in input_paths}
    return BoxFile(
        {path: np.array(boxes) for path, boxes in boxes_by_path.items() if boxes},
        num_empty,
        {
            path: {number: np.array(boxes).reshape(-1, 5) for number, boxes in by_number.items()}
            for path, by_number in frames_by_path.items()
            if by_number
        },
    )


def _parse_annotations(document: Mapping[str, Any]) -> BoxesByName:
    names = {i["id"]: i.get("file_name") or i["filename"] for i in document["images"]}
    boxes: dict[str, list[list[float]]] = {name: [] for name in names.values()}
    for index, annotation in enumerate(document["annotations"]):
        box = _parse_box(annotation["bbox"], f"annotations[{index}].bbox")
        boxes[names[annotation["image_id"]]].append(box)
    return boxes


def _parse_detections(document: list[Any]) -> BoxesByName:
    boxes: dict[str, list[list[float]]] = {}
    for index, detection in enumerate(document):
        if not isinstance(detection, dict):
            raise ValueError(f"[{index}] must be an object, got {format_value(detection)}")
        image_id = detection["image_id"]
        if type(image_id) not in (int, str):
            raise ValueError(f"[{index}].image_id must be a name or a number, got {format_value(image_id)}")
        score = parse_number(detection.get("score", 1.0), f"[{index}].score")
        box = _parse_box(detection["bbox"], f"[{index}].bbox", score)
        boxes.setdefault(str(image_id), []).append(box)
    return boxes


def _parse_box(value: object, where: str, score: float = 1.0) -> list[float]:
    return [*parse_numbers(value, 4, where).tolist(), score]


def _split_frame_boxes(
    boxes_by_name: BoxesByName,
) -> tuple[BoxesByName, Mapping[str, Mapping[int, list[list[float]]]]]:
    """Separate the boxes of images and whole videos from those of single frames."""
    whole: dict[str, list[list[float]]] = {}
    single_frames: dict[str, dict[int, list[list[float]]]] = {}
    for name, boxes in boxes_by_name.items():
        frame = FRAME_NAME_PATTERN.fullmatch(name)
        if frame and Path(frame[1]).suffix.lower() in VIDEO_SUFFIXES:
            single_frames.setdefault(frame[1], {})[int(frame[2])] = boxes
        else:
            whole[name] = boxes
    return whole, single_frames


def _find_by_image_name(input_path: Path, values_by_name: Mapping[str, T]) -> T | None:
    return next(
        (values_by_name[name] for name in _iter_image_names(input_path) if name in values_by_name),
        None,
    )


def _iter_image_names(input_path: Path) -> Iterator[str]:
    """Yield the names that a file may use for an image, longest first.

    For `train/7.jpg`: `train/7.jpg`, `7.jpg`, `train/7`, `7`. `000000000007.jpg` is `7`, too.
    """
    absolute = input_path.absolute()
    for parts in (absolute.parts, absolute.with_suffix("").parts):
        for start in range(len(parts)):
            yield str(Path(*parts[start:]))
    if input_path.stem.isdecimal():
        yield str(int(input_path.stem))


def _build_no_match_error(
    path: Path, boxes_by_name: BoxesByName, num_empty: int, input_paths: Sequence[Path]
) -> DataError:
    names = format_list(list(boxes_by_name)) or "no names"
    inputs = format_list([input_path.name for input_path in input_paths])
    empty = f", {num_empty:,} boxes without area" if num_empty else ""
    return DataError(
        "--boxes must have a box for at least one input, got none",
        f"--boxes {path}: {names}{empty} | inputs: {inputs}",
        "name the images there by their paths below --input",
    )

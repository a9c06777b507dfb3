"""The parts of Label Studio's JSON: tasks, the answers given to them, and regions in pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from hrnet_ray.data.annotations import format_value, parse_file_name, parse_number
from hrnet_ray.errors import DataError

RECTANGLE_TYPES = ("rectanglelabels", "rectangle")
KEYPOINT_TYPES = ("keypointlabels",)


def is_label_studio_export(document: object) -> bool:
    """Whether this is Label Studio's JSON (or its JSON-MIN), a list of tasks."""
    first = document[0] if isinstance(document, list) and document else None
    return is_label_studio_task(first) or is_json_min(first)


def is_label_studio_task(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict) and bool(_find_annotation_list(task))


def is_json_min(task: object) -> bool:
    """A task of the export JSON-MIN, which leaves out the regions' ids and parents."""
    return isinstance(task, dict) and "annotation_id" in task and "data" not in task


def _find_annotation_list(task: Mapping[str, Any]) -> list[list[Any]]:
    """The list of answers, where the task has one; it was called `completions` before 1.0."""
    answers = task.get("annotations", task.get("completions"))
    return [answers] if isinstance(answers, list) else []


def rank_annotations(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What people gave to a task, the one to read first: the ground truth, or else the newest."""
    (answers,) = _find_annotation_list(task)
    if not all(isinstance(answer, dict) for answer in answers):
        raise ValueError("annotations are not all records")

    def get_sort_key(annotation: Mapping[str, Any]) -> tuple[bool, str]:
        updated = annotation.get("updated_at")
        return bool(annotation.get("ground_truth")), updated if isinstance(updated, str) else ""

    return sorted(answers, key=get_sort_key, reverse=True)


def is_cancelled_annotation(annotation: Mapping[str, Any]) -> bool:
    return bool(annotation.get("was_cancelled") or annotation.get("skipped"))


@dataclass(frozen=True)
class LabelStudioRegion:
    """One entry of `result`, in pixels."""

    where: str
    kind: str
    id: str | None = None
    parent_id: str | None = None
    label: str | None = None
    image_rotation_deg: float = 0.0
    """Of the whole image in the tool."""
    image_xy: tuple[float, float] | None = None
    wh: tuple[float, float] = (0.0, 0.0)
    rotation_deg: float = 0.0
    """Of a rectangle, about its corner `xy`."""
    image_wh: tuple[float, float] = (0.0, 0.0)

    def compute_box_xywh(self) -> tuple[float, float, float, float]:
        """The upright box around a rectangle, which may be tilted about its corner, clipped."""
        if self.image_xy is None:
            raise ValueError("a rectangle without a place")
        turn = math.radians(self.rotation_deg)
        across = self.wh[0] * np.array([math.cos(turn), math.sin(turn)])
        down = self.wh[1] * np.array([-math.sin(turn), math.cos(turn)])
        corners = np.array(self.image_xy) + np.array([0 * across, across, down, across + down])
        low = corners.min(0).clip(0)
        high = np.minimum(corners.max(0), np.array(self.image_wh) - 1)
        x, y, w, h = *low.tolist(), *(high - low).tolist()
        return x, y, w, h


def parse_regions(annotation: Mapping[str, Any]) -> list[LabelStudioRegion]:
    """The entries that have a place in the image."""
    result = annotation.get("result")
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise ValueError(f"result is {format_value(result)} where a list of regions is wanted")
    found = []
    for at, entry in enumerate(result):
        where = f".result[{at}] (id {format_value(entry.get('id'))})"
        try:
            if isinstance(entry.get("value"), dict):  # relations and the like have none
                found.append(_parse_region(entry, where))
        except ValueError as error:
            raise DataError(f"a region that cannot be read ({error})", where, "correct this entry") from error
    return found


def _parse_region(entry: Mapping[str, Any], where: str) -> LabelStudioRegion:
    kind, value = entry.get("type"), entry["value"]
    if kind not in (*RECTANGLE_TYPES, *KEYPOINT_TYPES):
        return LabelStudioRegion(where, "other")
    width, height = (parse_number(entry.get(key), key) for key in ("original_width", "original_height"))
    if width < 1 or height < 1:
        raise ValueError(f"an image of {width:g} x {height:g}")
    labels = value.get(kind) or []
    if not isinstance(labels, list):
        raise ValueError(f"{kind} is {format_value(labels)} where a list is wanted")
    place = None
    if kind in RECTANGLE_TYPES or not (value.get("x") is None and value.get("y") is None):
        x, y = parse_number(value.get("x"), "x"), parse_number(value.get("y"), "y")
        place = (x / 100 * width, y / 100 * height)
    sides = [parse_number(value.get(key), key) for key in ("width", "height") if kind in RECTANGLE_TYPES]
    if any(side < 0 for side in sides):
        raise ValueError(f"a rectangle of {sides[0]:g} x {sides[1]:g} percent")
    return LabelStudioRegion(
        where=where,
        id=_parse_id(entry.get("id")),
        parent_id=_parse_id(entry.get("parentID", entry.get("parent_id"))),
        kind=str(kind),
        label=labels[0] if labels and isinstance(labels[0], str) else None,
        image_rotation_deg=parse_number(entry.get("image_rotation") or 0, "image_rotation"),
        image_xy=place,
        wh=(sides[0] / 100 * width, sides[1] / 100 * height) if sides else (0.0, 0.0),
        rotation_deg=parse_number(value.get("rotation") or 0, "rotation"),
        image_wh=(width, height),
    )


def _parse_id(value: object) -> str | None:
    return value if isinstance(value, str) else None


def parse_image_name_from_url(url: str) -> str:
    """The file below --images that a task's address stands for.

    `/data/local-files/?d=day/a.jpg` keeps its folders; of uploads, URLs and buckets only the last
    part is a file name on this machine.
    """
    parts = urlsplit(url)
    if parts.path.rstrip("/").endswith("/local-files"):
        below = parse_qs(parts.query).get("d", [""])[0]
        return parse_file_name(below.replace("\\", "/").lstrip("/"), f"the file of {format_value(url)}")
    name = PurePosixPath(unquote(parts.path).replace("\\", "/")).name
    return parse_file_name(name, f"the last part of {format_value(url)}")

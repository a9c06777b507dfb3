"""The parts of Label Studio's JSON: tasks, the answers given to them, and regions in pixels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np

from hrnet_ray.data.annotations import file_name, number, shown
from hrnet_ray.errors import DataError

RECTANGLES = ("rectanglelabels", "rectangle")
POINTS = ("keypointlabels",)


def is_export(document: object) -> bool:
    """Whether this is Label Studio's JSON (or its JSON-MIN), a list of tasks."""
    first = document[0] if isinstance(document, list) and document else None
    return is_task(first) or is_min(first)


def is_task(task: object) -> bool:
    return isinstance(task, dict) and isinstance(task.get("data"), dict) and bool(_answers(task))


def is_min(task: object) -> bool:
    """A task of the export JSON-MIN, which leaves out the regions' ids and parents."""
    return isinstance(task, dict) and "annotation_id" in task and "data" not in task


def _answers(task: Mapping[str, Any]) -> list[list[Any]]:
    """The list of answers, where the task has one; it was called `completions` before 1.0."""
    answers = task.get("annotations", task.get("completions"))
    return [answers] if isinstance(answers, list) else []


def answers_to(task: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What people gave to a task, the one to read first: the ground truth, or else the newest."""
    (answers,) = _answers(task)
    if not all(isinstance(answer, dict) for answer in answers):
        raise ValueError("annotations are not all records")

    def rank(answer: Mapping[str, Any]) -> tuple[bool, str]:
        updated = answer.get("updated_at")
        return bool(answer.get("ground_truth")), updated if isinstance(updated, str) else ""

    return sorted(answers, key=rank, reverse=True)


def is_cancelled(answer: Mapping[str, Any]) -> bool:
    return bool(answer.get("was_cancelled") or answer.get("skipped"))


@dataclass(frozen=True)
class Region:
    """One entry of `result`, in pixels."""

    where: str
    kind: str
    id: str | None = None
    parent: str | None = None
    label: str | None = None
    turn_deg: float = 0.0
    """Of the whole picture in the tool."""
    xy: tuple[float, float] | None = None
    wh: tuple[float, float] = (0.0, 0.0)
    tilt_deg: float = 0.0
    """Of a rectangle, about its corner `xy`."""
    picture_wh: tuple[float, float] = (0.0, 0.0)

    def box_xywh(self) -> tuple[float, float, float, float]:
        """The upright box around a rectangle, which may be tilted about its corner, clipped."""
        if self.xy is None:
            raise ValueError("a rectangle without a place")
        turn = math.radians(self.tilt_deg)
        across = self.wh[0] * np.array([math.cos(turn), math.sin(turn)])
        down = self.wh[1] * np.array([-math.sin(turn), math.cos(turn)])
        corners = np.array(self.xy) + np.array([0 * across, across, down, across + down])
        low = corners.min(0).clip(0)
        high = np.minimum(corners.max(0), np.array(self.picture_wh) - 1)
        x, y, w, h = *low.tolist(), *(high - low).tolist()
        return x, y, w, h


def regions_of(answer: Mapping[str, Any]) -> list[Region]:
    """The entries that have a place in the picture."""
    result = answer.get("result")
    if not isinstance(result, list) or not all(isinstance(entry, dict) for entry in result):
        raise ValueError(f"result is {shown(result)} where a list of regions is wanted")
    found = []
    for at, entry in enumerate(result):
        where = f".result[{at}] (id {shown(entry.get('id'))})"
        try:
            if isinstance(entry.get("value"), dict):  # relations and the like have none
                found.append(_region(entry, where))
        except ValueError as error:
            raise DataError(
                f"a region that cannot be read ({error})", where, "correct this entry"
            ) from error
    return found


def _region(entry: Mapping[str, Any], where: str) -> Region:
    kind, value = entry.get("type"), entry["value"]
    if kind not in (*RECTANGLES, *POINTS):
        return Region(where, "other")
    width, height = (number(entry.get(key), key) for key in ("original_width", "original_height"))
    if width < 1 or height < 1:
        raise ValueError(f"a picture of {width:g} x {height:g}")
    labels = value.get(kind) or []
    if not isinstance(labels, list):
        raise ValueError(f"{kind} is {shown(labels)} where a list is wanted")
    place = None
    if kind in RECTANGLES or not (value.get("x") is None and value.get("y") is None):
        x, y = number(value.get("x"), "x"), number(value.get("y"), "y")
        place = (x / 100 * width, y / 100 * height)
    sides = [number(value.get(key), key) for key in ("width", "height") if kind in RECTANGLES]
    if any(side < 0 for side in sides):
        raise ValueError(f"a rectangle of {sides[0]:g} x {sides[1]:g} percent")
    return Region(
        where=where,
        id=_id(entry.get("id")),
        parent=_id(entry.get("parentID", entry.get("parent_id"))),
        kind=str(kind),
        label=labels[0] if labels and isinstance(labels[0], str) else None,
        turn_deg=number(entry.get("image_rotation") or 0, "image_rotation"),
        xy=place,
        wh=(sides[0] / 100 * width, sides[1] / 100 * height) if sides else (0.0, 0.0),
        tilt_deg=number(value.get("rotation") or 0, "rotation"),
        picture_wh=(width, height),
    )


def _id(value: object) -> str | None:
    return value if isinstance(value, str) else None


def picture_name(address: str) -> str:
    """The file below --images that a task's address stands for.

    `/data/local-files/?d=day/a.jpg` keeps its folders; of uploads, URLs and buckets only the last
    part is a file name on this machine.
    """
    parts = urlsplit(address)
    if parts.path.rstrip("/").endswith("/local-files"):
        below = parse_qs(parts.query).get("d", [""])[0]
        return file_name(below.replace("\\", "/").lstrip("/"), f"the file of {shown(address)}")
    name = PurePosixPath(unquote(parts.path).replace("\\", "/")).name
    return file_name(name, f"the last part of {shown(address)}")

"""Label Studio's own JSON export to instances: a pose is a rectangle and the points inside it.

Inside means: dragged under it in the list of regions (`parentID`). A picture with one rectangle,
or none, needs no dragging. Coordinates are percent of the picture; every point counts as visible.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import Instance, Labels, Reason, Skipped, load_json, shown
from hrnet_ray.data.formats.label_studio_tasks import (
    POINTS,
    RECTANGLES,
    Region,
    answers_to,
    is_cancelled,
    is_min,
    is_task,
    picture_name,
    regions_of,
)
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, plain_name


def read_label_studio(path: Path, *, skeleton: Skeleton | None) -> Labels:
    """Read the export called `JSON`; names of its keypoint labels are those of `skeleton`.

    Of a task that several people labelled, the ground truth or else the newest is read.

    Raises:
        DataError: there is no skeleton, the file is another, or a region in it does not fit.
    """
    tasks = _tasks(path)
    if skeleton is None:
        raise DataError(
            "Label Studio's JSON has no order of keypoints",
            str(path),
            "name it: --skeleton with a YAML file (keypoints: [...]) of its label names",
        )
    reader = _Reader(skeleton)
    for at, task in enumerate(tasks):
        where = f"{path.name}: [{at}]"
        try:
            reader.read_task(at, task)
        except ValueError as error:
            raise DataError(
                f"a task that cannot be read ({error})", where, "correct this entry"
            ) from error
        except DataError as error:
            raise DataError(error.what, f"{where}{error.where}", error.fix) from error
    return Labels(
        source=path,
        skeleton=skeleton,
        instances=reader.instances,
        skipped=reader.skipped,
        notes=[f"{path.name}: {count:,} {what}" for what, count in sorted(reader.notes.items())],
    )


def _tasks(path: Path) -> list[dict[str, Any]]:
    tasks = load_json(path, fix="give Label Studio's JSON export")
    if not isinstance(tasks, list):
        raise DataError(
            "a JSON file that is no list of tasks", str(path), "export from Label Studio as `JSON`"
        )
    for at, task in enumerate(tasks):
        if not is_task(task):
            what = (
                "Label Studio's JSON-MIN, which does not tell whose a keypoint is"
                if is_min(task)
                else "an entry that is no task of Label Studio"
            )
            raise DataError(what, f"{path.name}: [{at}]", "export from Label Studio as `JSON`")
    return tasks


@dataclass
class _Reader:
    """What has been read so far."""

    skeleton: Skeleton
    instances: list[Instance] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    addresses: dict[str, str] = field(default_factory=dict)
    """Of each file name, the address that it was taken from."""

    def __post_init__(self) -> None:
        places = {name: at for at, name in enumerate(self.skeleton.keypoints)}
        self.places = {plain_name(name): at for name, at in places.items()} | places

    def read_task(self, at: int, task: Mapping[str, Any]) -> None:
        name = f"task {shown(task.get('id', at))}"
        answer = self._chosen(task, name)
        if answer is None:
            return
        regions = regions_of(answer)
        drawn = [region for region in regions if region.kind in RECTANGLES]
        points = [region for region in regions if region.kind in POINTS]
        if others := len(regions) - len(drawn) - len(points):
            self.notes["regions are neither rectangle nor keypoint: they were not read"] += others
        if not drawn and not points:
            self.notes["tasks have neither rectangle nor keypoint"] += 1
            return
        image = self._image(task["data"])
        item = f"{name} ({image})"
        if any(region.turn_deg for region in (*drawn, *points)):
            self._skip(item, Reason.TURNED_PICTURE, "it was turned in the tool")
            return
        for rectangle, mine in self._grouped(drawn, points, item):
            self._read_pose(at, image, rectangle, mine, item)

    def _skip(self, item: str, reason: Reason, detail: str = "") -> None:
        self.skipped.append(Skipped(item, reason, detail))

    def _chosen(self, task: Mapping[str, Any], item: str) -> Mapping[str, Any] | None:
        """The answer to read; all others are skipped."""
        answers = answers_to(task)
        given = [answer for answer in answers if not is_cancelled(answer)]
        for _ in range(len(answers) - len(given)):
            self._skip(item, Reason.CANCELLED, "the annotator skipped this task")
        for other in given[1:]:
            self._skip(item, Reason.OTHER_ANNOTATION, f"annotation {shown(other.get('id'))}")
        if not answers:
            self.notes["tasks have no annotation"] += 1
        return given[0] if given else None

    def _image(self, data: Mapping[str, Any]) -> str:
        """The file that the regions were drawn on."""
        texts = [value for value in data.values() if isinstance(value, str)]
        address = data.get("image", data.get("img", texts[0] if len(texts) == 1 else None))
        if not isinstance(address, str):
            raise DataError(
                "a task whose picture is not clear",
                f".data: {shown(dict(data))}",
                "name the picture `image` in the tasks' data",
            )
        name = picture_name(address)
        if self.addresses.setdefault(name, address) != address:
            raise DataError(
                "two pictures of one file name",
                f".data: {shown(address)} and {shown(self.addresses[name])}",
                "give each picture a file name of its own",
            )
        return name

    def _grouped(
        self, drawn: list[Region], points: list[Region], item: str
    ) -> list[tuple[Region | None, list[Region]]]:
        """Each rectangle with its points. Where none is drawn, the points are one pose."""
        if len(drawn) < 2:
            return [(drawn[0] if drawn else None, points)]
        ids = {rectangle.id for rectangle in drawn}
        mine: dict[str | None, list[Region]] = defaultdict(list)
        for point in points:
            if point.parent is not None and point.parent in ids:
                mine[point.parent].append(point)
            else:
                detail = f"{shown(point.label)}: drag it under its rectangle in the list of regions"
                self._skip(item, Reason.KEYPOINT_WITHOUT_BOX, detail)
        return [(rectangle, mine[rectangle.id]) for rectangle in drawn]

    def _read_pose(
        self, at: int, image: str, rectangle: Region | None, points: list[Region], item: str
    ) -> None:
        image_xy = np.zeros((len(self.skeleton), 2))
        visible = np.zeros(len(self.skeleton), bool)
        for point in points:
            if point.xy is None:  # a prompt to a segmenting model, not a label
                self.notes["keypoints have no place: they were not read"] += 1
                continue
            place = self._place(point)
            if visible[place]:
                return self._skip(item, Reason.KEYPOINT_TWICE, shown(point.label))
            image_xy[place], visible[place] = point.xy, True
        if not visible.any():
            return self._skip(item, Reason.NO_KEYPOINTS, "a rectangle" if rectangle else "")
        if rectangle is None:
            self.notes["poses have no rectangle: their box was taken around the points"] += 1
        box = _around(image_xy[visible]) if rectangle is None else rectangle.box_xywh()
        if box[2] <= 0 or box[3] <= 0:
            return self._skip(item, Reason.EMPTY_BOX, f"{box[2]:.1f} x {box[3]:.1f} px")
        self.instances.append(
            Instance(
                id=len(self.instances),
                image_id=at,
                image=image,
                category_id=1,
                box_xywh=box,
                area=box[2] * box[3],
                head_size=math.nan,
                image_xy=image_xy,
                visible=visible,
            )
        )
        return None

    def _place(self, point: Region) -> int:
        label = point.label or ""
        place = self.places.get(label, self.places.get(plain_name(label)))
        if place is None:
            raise DataError(
                f"keypoint {shown(point.label)} is none of {self.skeleton.name!r}",
                point.where,
                f"use a skeleton with it, or its names: {', '.join(self.skeleton.keypoints)}",
            )
        return place


def _around(points: np.ndarray) -> tuple[float, float, float, float]:
    (x, y), (w, h) = points.min(0).tolist(), np.ptp(points, 0).tolist()
    return x, y, w, h

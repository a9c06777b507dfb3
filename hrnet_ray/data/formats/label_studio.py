"""Label Studio's own JSON export to instances: a pose is a rectangle and the points inside it.

Inside means: dragged under it in the list of regions (`parentID`). An image with one rectangle,
or none, needs no dragging. Coordinates are percent of the image; every point counts as visible.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import (
    AnnotationSet,
    PoseInstance,
    SkippedItem,
    SkipReason,
    format_value,
    load_json_file,
)
from hrnet_ray.data.formats.label_studio_tasks import (
    KEYPOINT_TYPES,
    RECTANGLE_TYPES,
    LabelStudioRegion,
    is_cancelled_annotation,
    is_json_min,
    is_label_studio_task,
    parse_image_name_from_url,
    parse_regions,
    rank_annotations,
)
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import Skeleton, normalize_keypoint_name


def read_label_studio(path: Path, *, skeleton: Skeleton | None) -> AnnotationSet:
    """Read the export called `JSON`; names of its keypoint labels are those of `skeleton`.

    Of a task that several people labelled, the ground truth or else the newest is read.

    Raises:
        DataError: there is no skeleton, the file is another, or a region in it does not fit.
    """
    tasks = _load_tasks(path)
    if skeleton is None:
        raise DataError(
            "Label Studio's JSON has no order of keypoints",
            str(path),
            "name it: --skeleton with a YAML file (keypoints: [...]) of its label names",
        )
    reader = _LabelStudioReader(skeleton)
    for at, task in enumerate(tasks):
        where = f"{path.name}: [{at}]"
        try:
            reader.read_task(at, task)
        except ValueError as error:
            raise DataError(f"a task that cannot be read ({error})", where, "correct this entry") from error
        except DataError as error:
            raise DataError(error.what, f"{where}{error.where}", error.fix) from error
    return AnnotationSet(
        source=path,
        skeleton=skeleton,
        instances=reader.instances,
        skipped=reader.skipped,
        notes=[f"{path.name}: {count:,} {what}" for what, count in sorted(reader.note_counts.items())],
    )


def _load_tasks(path: Path) -> list[dict[str, Any]]:
    tasks = load_json_file(path, fix="give Label Studio's JSON export")
    if not isinstance(tasks, list):
        raise DataError("a JSON file that is no list of tasks", str(path), "export from Label Studio as `JSON`")
    for at, task in enumerate(tasks):
        if not is_label_studio_task(task):
            what = (
                "Label Studio's JSON-MIN, which does not tell whose a keypoint is"
                if is_json_min(task)
                else "an entry that is no task of Label Studio"
            )
            raise DataError(what, f"{path.name}: [{at}]", "export from Label Studio as `JSON`")
    return tasks


@dataclass
class _LabelStudioReader:
    """What has been read so far."""

    skeleton: Skeleton
    instances: list[PoseInstance] = field(default_factory=list)
    skipped: list[SkippedItem] = field(default_factory=list)
    note_counts: Counter[str] = field(default_factory=Counter)
    url_by_image_name: dict[str, str] = field(default_factory=dict)
    """Of each file name, the address that it was taken from."""

    def __post_init__(self) -> None:
        places = {name: at for at, name in enumerate(self.skeleton.keypoints)}
        self.keypoint_index_by_name = {normalize_keypoint_name(name): at for name, at in places.items()} | places

    def read_task(self, task_index: int, task: Mapping[str, Any]) -> None:
        name = f"task {format_value(task.get('id', task_index))}"
        answer = self._select_annotation(task, name)
        if answer is None:
            return
        regions = parse_regions(answer)
        drawn = [region for region in regions if region.kind in RECTANGLE_TYPES]
        points = [region for region in regions if region.kind in KEYPOINT_TYPES]
        if others := len(regions) - len(drawn) - len(points):
            self.note_counts["regions are neither rectangle nor keypoint: they were not read"] += others
        if not drawn and not points:
            self.note_counts["tasks have neither rectangle nor keypoint"] += 1
            return
        image = self._resolve_image_name(task["data"])
        item = f"{name} ({image})"
        if any(region.image_rotation_deg for region in (*drawn, *points)):
            self._skip_item(item, SkipReason.EXIF_ROTATED_IMAGE, "it was turned in the tool")
            return
        for rectangle, mine in self._group_points_by_rectangle(drawn, points, item):
            self._read_pose(task_index, image, rectangle, mine, item)

    def _skip_item(self, item: str, reason: SkipReason, detail: str = "") -> None:
        self.skipped.append(SkippedItem(item, reason, detail))

    def _select_annotation(self, task: Mapping[str, Any], item: str) -> Mapping[str, Any] | None:
        """The answer to read; all others are skipped."""
        answers = rank_annotations(task)
        given = [answer for answer in answers if not is_cancelled_annotation(answer)]
        for _ in range(len(answers) - len(given)):
            self._skip_item(item, SkipReason.CANCELLED, "the annotator skipped this task")
        for other in given[1:]:
            self._skip_item(item, SkipReason.OTHER_ANNOTATION, f"annotation {format_value(other.get('id'))}")
        if not answers:
            self.note_counts["tasks have no annotation"] += 1
        return given[0] if given else None

    def _resolve_image_name(self, data: Mapping[str, Any]) -> str:
        """The file that the regions were drawn on."""
        texts = [value for value in data.values() if isinstance(value, str)]
        address = data.get("image", data.get("img", texts[0] if len(texts) == 1 else None))
        if not isinstance(address, str):
            raise DataError(
                "a task whose image is not clear",
                f".data: {format_value(dict(data))}",
                "name the image `image` in the tasks' data",
            )
        name = parse_image_name_from_url(address)
        if self.url_by_image_name.setdefault(name, address) != address:
            raise DataError(
                "two images of one file name",
                f".data: {format_value(address)} and {format_value(self.url_by_image_name[name])}",
                "give each image a file name of its own",
            )
        return name

    def _group_points_by_rectangle(
        self, rectangles: list[LabelStudioRegion], points: list[LabelStudioRegion], item: str
    ) -> list[tuple[LabelStudioRegion | None, list[LabelStudioRegion]]]:
        """Each rectangle with its points. Where none is drawn, the points are one pose."""
        if len(rectangles) < 2:
            return [(rectangles[0] if rectangles else None, points)]
        ids = {rectangle.id for rectangle in rectangles}
        mine: dict[str | None, list[LabelStudioRegion]] = defaultdict(list)
        for point in points:
            if point.parent_id is not None and point.parent_id in ids:
                mine[point.parent_id].append(point)
            else:
                detail = f"{format_value(point.label)}: drag it under its rectangle in the list of regions"
                self._skip_item(item, SkipReason.KEYPOINT_WITHOUT_BOX, detail)
        return [(rectangle, mine[rectangle.id]) for rectangle in rectangles]

    def _read_pose(
        self,
        task_index: int,
        image: str,
        rectangle: LabelStudioRegion | None,
        points: list[LabelStudioRegion],
        item: str,
    ) -> None:
        image_xy = np.zeros((len(self.skeleton), 2))
        visible = np.zeros(len(self.skeleton), bool)
        for point in points:
            if point.image_xy is None:  # a prompt to a segmenting model, not a label
                self.note_counts["keypoints have no place: they were not read"] += 1
                continue
            place = self._find_keypoint_index(point)
            if visible[place]:
                return self._skip_item(item, SkipReason.DUPLICATE_KEYPOINT, format_value(point.label))
            image_xy[place], visible[place] = point.image_xy, True
        if not visible.any():
            return self._skip_item(item, SkipReason.NO_KEYPOINTS, "a rectangle" if rectangle else "")
        if rectangle is None:
            self.note_counts["poses have no rectangle: their box was taken around the points"] += 1
        box = _compute_bounding_box(image_xy[visible]) if rectangle is None else rectangle.compute_box_xywh()
        if box[2] <= 0 or box[3] <= 0:
            return self._skip_item(item, SkipReason.EMPTY_BOX, f"{box[2]:.1f} x {box[3]:.1f} px")
        self.instances.append(
            PoseInstance(
                id=len(self.instances),
                image_id=task_index,
                image=image,
                box_xywh=box,
                area=box[2] * box[3],
                image_xy=image_xy,
                visible=visible,
            )
        )
        return None

    def _find_keypoint_index(self, point: LabelStudioRegion) -> int:
        label = point.label or ""
        place = self.keypoint_index_by_name.get(label, self.keypoint_index_by_name.get(normalize_keypoint_name(label)))
        if place is None:
            raise DataError(
                f"keypoint {format_value(point.label)} is none of {self.skeleton.name!r}",
                point.where,
                f"use a skeleton with it, or its names: {', '.join(self.skeleton.keypoints)}",
            )
        return place


def _compute_bounding_box(image_xy: np.ndarray) -> tuple[float, float, float, float]:
    (x, y), (w, h) = image_xy.min(0).tolist(), np.ptp(image_xy, 0).tolist()
    return x, y, w, h

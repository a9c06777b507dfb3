"""DeepLabCut projects, of one animal or of several: a config.yaml and its labeled-data.

DeepLabCut has no boxes: an animal's is taken around its labelled points, and widened. What it
leaves out of its own training sets (frames without a label, points outside their image) is left
out here, and reported.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import (
    AnnotationSet,
    PoseInstance,
    SkippedItem,
    SkipReason,
    build_count_note,
    is_regular_file,
)
from hrnet_ray.data.formats import deeplabcut_config, deeplabcut_files
from hrnet_ray.data.formats.deeplabcut_config import DlcProject
from hrnet_ray.data.formats.deeplabcut_csv import (
    ColumnKey,
    LabeledFrame,
    LabelTable,
    read_label_csv,
)
from hrnet_ray.data.images import codec
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import Skeleton

BOX_MARGIN_FRAC = 0.1
"""A box reaches this share of its longer side beyond the outermost points: paws have toes."""
UNIQUE_INDIVIDUAL = "single"
"""The individual that has the bodyparts of no animal."""


@dataclass(frozen=True)
class DlcDataset:
    """All labels of a project."""

    labels: AnnotationSet
    """An image is named `video/img001.png`."""
    images_dir: Path
    """The folder of the videos' folders."""


def read_deeplabcut(
    project: Path,
    *,
    skeleton: Skeleton | None,
    progress: ProgressCallback,
    skip_missing: bool = False,
) -> DlcDataset:
    """Read a project, by its folder or config.yaml; without a `skeleton`, the config gives it.

    Raises:
        DataError: the config or a table of labels is not of this form, or images are not there.
    """
    told = deeplabcut_config.load_project(project)
    skeleton, places, notes = deeplabcut_config.build_skeleton_from_config(told, skeleton)
    paths, found = deeplabcut_files.find_label_files(told)
    tables = [read_label_csv(path) for path in paths]
    notes += [*found, *_check_bodypart_names(tables, told)]
    reader = _DeepLabCutReader(told, skeleton, places)
    done, many = 0, sum(len(table.frames) for table in tables)
    for table in tables:
        animals = reader.collect_animals(table)
        for frame in table.frames:
            reader.add_frame(table.video, frame, animals)
            done += 1
            progress(done, many)
    if reader.missing_images and not skip_missing:
        raise DataError(
            f"{len(reader.missing_images):,} of {many:,} frames are not there",
            f"{told.config_path}: {format_list(reader.missing_images)} (below {told.labeled_data_dir})",
            "put them there, or add --skip-missing to leave them out (listed in skipped.csv)",
        )
    labels = AnnotationSet(
        source=told.config_path,
        skeleton=skeleton,
        instances=reader.instances,
        skipped=reader.skipped,
        notes=[*notes, *reader.build_notes()],
    )
    return DlcDataset(labels, told.labeled_data_dir.resolve())


def _is_unique_bodypart(point: ColumnKey, project: DlcProject) -> bool:
    return point.individual == UNIQUE_INDIVIDUAL and point.bodypart in project.unique_bodyparts


def _check_bodypart_names(tables: Sequence[LabelTable], project: DlcProject) -> list[str]:
    """Notes on bodyparts that the config or a table has alone.

    Raises:
        DataError: each has some of its own, so one was renamed and its labels would be lost.
    """
    unused: Counter[str] = Counter()
    without: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        named = [p.bodypart for p in table.column_keys if not _is_unique_bodypart(p, project)]
        strange = sorted(set(named) - set(project.bodyparts))
        lost = [name for name in project.bodyparts if name not in named]
        if strange and lost:
            raise DataError(
                f"bodyparts called otherwise than in the config: {format_list(strange)}",
                f"{table.path} has no {format_list(lost)}",
                "use one name in config.yaml and in the labels, or add the others to the config",
            )
        for name in strange:
            unused[name] += table.count_labels(name)
        for name in lost:
            without[name].append(table.video)
    notes = [
        f"bodypart {name!r} is not in the config, and was not used: {count:,} labels"
        for name, count in sorted(unused.items())
    ]
    return notes + [
        f"bodypart {name!r} has no column in the labels of {format_list(videos)}" for name, videos in without.items()
    ]


@dataclass(frozen=True)
class _AnimalColumns:
    """An individual of a table."""

    name: str
    point_indices: list[int] = field(default_factory=list)
    """Places of its points in a frame..."""
    keypoint_indices: list[int] = field(default_factory=list)
    """... and in the skeleton; empty for the bodyparts of no animal."""


class _DeepLabCutReader:
    """What has been read so far."""

    def __init__(self, project: DlcProject, skeleton: Skeleton, keypoint_index_by_bodypart: Mapping[str, int]) -> None:
        self.project, self.skeleton, self.keypoint_index_by_bodypart = (
            project,
            skeleton,
            keypoint_index_by_bodypart,
        )
        self.instances: list[PoseInstance] = []
        self.skipped: list[SkippedItem] = []
        self.missing_images: list[str] = []
        self.images_of_outside_points: list[str] = []
        """The image of each point that lies outside it."""
        self.num_frames = 0

    def collect_animals(self, table: LabelTable) -> list[_AnimalColumns]:
        """Who is in a table, with those of their points that are used."""
        found: dict[tuple[str, bool], _AnimalColumns] = {}
        for column, point in enumerate(table.column_keys):
            unique = _is_unique_bodypart(point, self.project)
            if unique or point.bodypart in self.keypoint_index_by_bodypart:
                who = (point.individual, unique)
                animal = found.setdefault(who, _AnimalColumns(point.individual))
                animal.point_indices.append(column)
                if not unique:
                    animal.keypoint_indices.append(self.keypoint_index_by_bodypart[point.bodypart])
        return list(found.values())

    def add_frame(self, video: str, frame: LabeledFrame, animals: Sequence[_AnimalColumns]) -> None:
        """A frame with its labelled individuals; not every individual is in each frame."""
        image = f"{video}/{frame.image_name}"
        self.num_frames += 1
        labelled = [one for one in animals if np.isfinite(frame.image_xy[one.point_indices]).any()]
        if not labelled:
            return self._skip_item(image, SkipReason.NO_KEYPOINTS, "none of its points is labelled")
        picture_wh = self._read_image_wh(image)
        for animal in labelled:
            item = f"{image} ({animal.name})" if animal.name else image
            if animal.keypoint_indices:
                xy = frame.image_xy[animal.point_indices]
                self._add_instance(image, item, xy, np.array(animal.keypoint_indices), picture_wh)
            else:
                self._skip_item(item, SkipReason.OTHER_CATEGORY, "unique bodyparts")
        return None

    def _skip_item(self, item: str, reason: SkipReason, detail: str) -> None:
        self.skipped.append(SkippedItem(item, reason, detail))

    def _read_image_wh(self, image: str) -> tuple[float, float]:
        """Endless where the image cannot be read: it goes on, to be named with all of these."""
        path = self.project.labeled_data_dir / image
        if not is_regular_file(path):
            self.missing_images.append(image)
            return math.inf, math.inf
        try:
            size = codec.read_size_hw(path.read_bytes())
        except OSError:
            size = None
        return (float(size[1]), float(size[0])) if size else (math.inf, math.inf)

    def _add_instance(
        self,
        image: str,
        item: str,
        xy: np.ndarray,
        keypoint_indices: np.ndarray,
        image_wh: tuple[float, float],
    ) -> None:
        """An animal by its points [P, 2], NaN where not labelled, and their places [P]."""
        labelled = np.isfinite(xy).all(1)
        inside = labelled & (xy >= 0).all(1) & (xy < image_wh).all(1) & xy.any(1)
        self.images_of_outside_points += [image] * int((labelled & ~inside).sum())
        if not inside.any():
            return self._skip_item(item, SkipReason.NO_KEYPOINTS, "labelled outside the image only")
        box = _compute_padded_box(xy[inside], image_wh)
        if min(box[2:]) <= 0:
            return self._skip_item(item, SkipReason.EMPTY_BOX, f"labelled points: {int(inside.sum())}")
        image_xy, visible = np.zeros((len(self.skeleton), 2)), np.zeros(len(self.skeleton), bool)
        image_xy[keypoint_indices[inside]], visible[keypoint_indices[inside]] = xy[inside], True
        self.instances.append(
            PoseInstance(
                id=len(self.instances) + 1,
                image_id=self.num_frames,
                image=image,
                box_xywh=box,
                area=box[2] * box[3],
                image_xy=image_xy,
                visible=visible,
            )
        )
        return None

    def build_notes(self) -> list[str]:
        """What a person should know of the boxes and the points."""
        what = f"each was taken around the points, and widened by {BOX_MARGIN_FRAC:.0%}"
        notes = [f"DeepLabCut has no boxes: {what}"]
        if self.images_of_outside_points:
            names = format_list(list(dict.fromkeys(self.images_of_outside_points)))
            notes.append(
                f"{len(self.images_of_outside_points):,} labelled points are outside their image, or at (0, 0): "
                f"they were taken as not labelled, as in DeepLabCut: {names}"
            )
        seen = np.any([instance.visible for instance in self.instances], axis=0)
        if self.instances:
            never = [name for name, at in self.keypoint_index_by_bodypart.items() if not seen[at]]
            notes += build_count_note(never, "bodyparts are labelled in no frame")
        return notes


def _compute_padded_box(image_xy: np.ndarray, image_wh: tuple[float, float]) -> tuple[float, float, float, float]:
    """The box of points [L, 2], widened, inside its image: (x, y, w, h)."""
    low, high = image_xy.min(0), image_xy.max(0)
    more = BOX_MARGIN_FRAC * (high - low).max()
    x1, y1 = np.maximum(low - more, 0).tolist()
    x2, y2 = np.minimum(high + more, np.subtract(image_wh, 1)).tolist()
    return x1, y1, x2 - x1, y2 - y1

"""DeepLabCut projects, of one animal or of several: a config.yaml and its labeled-data.

DeepLabCut has no boxes: an animal's is taken around its labelled points, and widened. What it
leaves out of its own training sets (frames without a label, points outside their picture) is left
out here, and told.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import Instance, Labels, Reason, Skipped, is_file
from hrnet_ray.data.formats import deeplabcut_config, deeplabcut_files
from hrnet_ray.data.formats.deeplabcut_config import Project
from hrnet_ray.data.formats.deeplabcut_csv import Frame, Point, Table, read_table
from hrnet_ray.data.images import codec
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton

WIDER = 0.1
"""A box reaches this share of its longer side beyond the outermost points: paws have toes."""
UNIQUE = "single"
"""The individual that has the bodyparts of no animal."""


@dataclass(frozen=True)
class Dlc:
    """All labels of a project."""

    labels: Labels
    """A picture is named `video/img001.png`."""
    images: Path
    """The folder of the videos' folders."""


def read_dlc(
    project: Path, *, skeleton: Skeleton | None, progress: Progress, skip_missing: bool = False
) -> Dlc:
    """Read a project, by its folder or config.yaml; without a `skeleton`, the config gives it.

    Raises:
        DataError: the config or a table of labels is not of this form, or pictures are not there.
    """
    told = deeplabcut_config.load(project)
    skeleton, places, notes = deeplabcut_config.skeleton_of(told, skeleton)
    paths, found = deeplabcut_files.find(told)
    tables = [read_table(path) for path in paths]
    notes += [*found, *_check_names(tables, told)]
    reader = _Reader(told, skeleton, places)
    done, many = 0, sum(len(table.frames) for table in tables)
    for table in tables:
        animals = reader.animals_of(table)
        for frame in table.frames:
            reader.add(table.video, frame, animals)
            done += 1
            progress(done, many)
    if reader.missing and not skip_missing:
        raise DataError(
            f"{len(reader.missing):,} of {many:,} frames are not there",
            f"{told.config}: {shortened(reader.missing)} (below {told.labeled})",
            "put them there, or add --skip-missing to leave them out (listed in skipped.csv)",
        )
    labels = Labels(
        source=told.config,
        skeleton=skeleton,
        instances=reader.instances,
        skipped=reader.skipped,
        notes=[*notes, *reader.notes()],
    )
    return Dlc(labels, told.labeled.resolve())


def _is_unique(point: Point, project: Project) -> bool:
    return point.individual == UNIQUE and point.bodypart in project.unique


def _check_names(tables: Sequence[Table], project: Project) -> list[str]:
    """Notes on bodyparts that the config or a table has alone.

    Raises:
        DataError: each has some of its own, so one was renamed and its labels would be lost.
    """
    unused: Counter[str] = Counter()
    without: dict[str, list[str]] = defaultdict(list)
    for table in tables:
        named = [p.bodypart for p in table.points if not _is_unique(p, project)]
        strange = sorted(set(named) - set(project.bodyparts))
        lost = [name for name in project.bodyparts if name not in named]
        if strange and lost:
            raise DataError(
                f"bodyparts called otherwise than in the config: {shortened(strange)}",
                f"{table.path} has no {shortened(lost)}",
                "use one name in config.yaml and in the labels, or add the others to the config",
            )
        for name in strange:
            unused[name] += table.labelled(name)
        for name in lost:
            without[name].append(table.video)
    notes = [
        f"bodypart {name!r} is not in the config, and was not used: {count:,} labels"
        for name, count in sorted(unused.items())
    ]
    return notes + [
        f"bodypart {name!r} has no column in the labels of {shortened(videos)}"
        for name, videos in without.items()
    ]


@dataclass(frozen=True)
class _Animal:
    """An individual of a table."""

    name: str
    columns: list[int] = field(default_factory=list)
    """Places of its points in a frame..."""
    places: list[int] = field(default_factory=list)
    """... and in the skeleton; empty for the bodyparts of no animal."""


class _Reader:
    """What has been read so far."""

    def __init__(self, project: Project, skeleton: Skeleton, places: Mapping[str, int]) -> None:
        self.project, self.skeleton, self.places = project, skeleton, places
        self.instances: list[Instance] = []
        self.skipped: list[Skipped] = []
        self.missing: list[str] = []
        self.outside: list[str] = []
        """The picture of each point that lies outside it."""
        self.frames = 0

    def animals_of(self, table: Table) -> list[_Animal]:
        """Who is in a table, with those of their points that are used."""
        found: dict[tuple[str, bool], _Animal] = {}
        for column, point in enumerate(table.points):
            unique = _is_unique(point, self.project)
            if unique or point.bodypart in self.places:
                who = (point.individual, unique)
                animal = found.setdefault(who, _Animal(point.individual))
                animal.columns.append(column)
                if not unique:
                    animal.places.append(self.places[point.bodypart])
        return list(found.values())

    def add(self, video: str, frame: Frame, animals: Sequence[_Animal]) -> None:
        """A frame, with those who are labelled in it: not everybody is in each."""
        image = f"{video}/{frame.picture}"
        self.frames += 1
        labelled = [one for one in animals if np.isfinite(frame.image_xy[one.columns]).any()]
        if not labelled:
            return self._skip(image, Reason.NO_KEYPOINTS, "none of its points is labelled")
        picture_wh = self._size_wh(image)
        for animal in labelled:
            item = f"{image} ({animal.name})" if animal.name else image
            if animal.places:
                xy = frame.image_xy[animal.columns]
                self._add_animal(image, item, xy, np.array(animal.places), picture_wh)
            else:
                self._skip(item, Reason.OTHER_CATEGORY, "unique bodyparts")
        return None

    def _skip(self, item: str, reason: Reason, detail: str) -> None:
        self.skipped.append(Skipped(item, reason, detail))

    def _size_wh(self, image: str) -> tuple[float, float]:
        """Endless where the picture cannot be read: it goes on, to be named with all of these."""
        path = self.project.labeled / image
        if not is_file(path):
            self.missing.append(image)
            return math.inf, math.inf
        try:
            size = codec.size_hw(path.read_bytes())
        except OSError:
            size = None
        return (float(size[1]), float(size[0])) if size else (math.inf, math.inf)

    def _add_animal(
        self,
        image: str,
        item: str,
        xy: np.ndarray,
        places: np.ndarray,
        picture_wh: tuple[float, float],
    ) -> None:
        """An animal by its points [P, 2], NaN where not labelled, and their places [P]."""
        labelled = np.isfinite(xy).all(1)
        inside = labelled & (xy >= 0).all(1) & (xy < picture_wh).all(1) & xy.any(1)
        self.outside += [image] * int((labelled & ~inside).sum())
        if not inside.any():
            return self._skip(item, Reason.NO_KEYPOINTS, "labelled outside the picture only")
        box = _around(xy[inside], picture_wh)
        if min(box[2:]) <= 0:
            return self._skip(item, Reason.EMPTY_BOX, f"labelled points: {int(inside.sum())}")
        image_xy, visible = np.zeros((len(self.skeleton), 2)), np.zeros(len(self.skeleton), bool)
        image_xy[places[inside]], visible[places[inside]] = xy[inside], True
        self.instances.append(
            Instance(
                id=len(self.instances) + 1,
                image_id=self.frames,
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

    def notes(self) -> list[str]:
        """What a person should know of the boxes and the points."""
        what = f"each was taken around the points, and widened by {WIDER:.0%}"
        notes = [f"DeepLabCut has no boxes: {what}"]
        if self.outside:
            names = shortened(list(dict.fromkeys(self.outside)))
            notes.append(
                f"{len(self.outside):,} labelled points are outside their picture, or at (0, 0): "
                f"they were taken as not labelled, as in DeepLabCut: {names}"
            )
        seen = np.any([instance.visible for instance in self.instances], axis=0)
        if self.instances and not seen.all():
            never = [name for name, at in self.places.items() if not seen[at]]
            notes.append(f"{len(never):,} bodyparts are labelled in no frame: {shortened(never)}")
        return notes


def _around(
    points: np.ndarray, picture_wh: tuple[float, float]
) -> tuple[float, float, float, float]:
    """The box of points [L, 2], widened, inside its picture: (x, y, w, h)."""
    low, high = points.min(0), points.max(0)
    more = WIDER * (high - low).max()
    x1, y1 = np.maximum(low - more, 0).tolist()
    x2, y2 = np.minimum(high + more, np.subtract(picture_wh, 1)).tolist()
    return x1, y1, x2 - x1, y2 - y1

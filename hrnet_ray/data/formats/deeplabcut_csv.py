"""DeepLabCut's tables of labels: a row for each frame, two columns for each point.

Rows `scorer`, `individuals` (of several animals), `bodyparts` and `coords` say what the columns
are. A frame is named in one cell, `labeled-data/video/img001.png` with slashes of either kind, or
in three. An empty cell is a point that is not labelled.
"""

import csv
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import MOST, file_name, shown, text_of
from hrnet_ray.errors import DataError

HEAD = ("scorer", "individuals", "bodyparts", "coords")
FIX = "give it as DeepLabCut writes it, or load and save the labels there once more"


@dataclass(frozen=True)
class Point:
    """What two columns, x and y, are of."""

    bodypart: str
    individual: str = ""
    """Empty where there is one animal."""


@dataclass(frozen=True)
class Columns:
    """What the rows above the first frame say."""

    naming: int
    """Cells that name a frame: one or three."""
    points: list[Point]


@dataclass(frozen=True)
class Frame:
    """A row."""

    picture: str
    """File name, in the folder of the table."""
    image_xy: np.ndarray
    """float64 [P, 2], in the order of the table's points; NaN where not labelled."""


@dataclass(frozen=True)
class Table:
    """The labels of one video."""

    path: Path
    points: list[Point]
    frames: list[Frame]

    @property
    def video(self) -> str:
        return self.path.parent.name

    def labelled(self, bodypart: str) -> int:
        """How often a bodypart is labelled."""
        mine = [column for column, point in enumerate(self.points) if point.bodypart == bodypart]
        return sum(int(np.isfinite(frame.image_xy[mine, 0]).sum()) for frame in self.frames)


def read_table(path: Path) -> Table:
    """Read a CollectedData CSV.

    Raises:
        DataError: it is of another form, a cell is no number, or a frame is there twice.
    """
    head: dict[str, list[str]] = {}
    columns: Columns | None = None
    frames: dict[str, Frame] = {}
    for line, row in _rows(path):
        try:
            if columns is None and row[0] in HEAD and row[0] not in head:
                head[row[0]] = row[1:]
                continue
            columns = columns or _columns(head)
            frame = _frame(row, columns, path.parent.name)
            if frame.picture in frames:
                raise ValueError(f"{shown(frame.picture)} is there twice")
        except ValueError as error:
            raise DataError(
                f"a row of labels that cannot be read ({error})", f"{path}: line {line}", FIX
            ) from error
        frames[frame.picture] = frame
    if columns is None:
        raise DataError("labels of no frame", str(path), "label its frames, or remove the file")
    return Table(path, columns.points, list(frames.values()))


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their lines."""
    reader = csv.reader(io.StringIO(text_of(path), newline=""))
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise DataError(
            f"a file that is no CSV ({error})", f"{path}: line {reader.line_num}", FIX
        ) from error


def _columns(head: Mapping[str, Sequence[str]]) -> Columns:
    """What the columns are of, from the rows above the first frame.

    Raises:
        ValueError: they are not DeepLabCut's.
    """
    if lost := {"scorer", "bodyparts", "coords"} - head.keys():
        raise ValueError(f"no row {shown(min(lost))} above it")
    axes = head["coords"]
    first = next((at for at, axis in enumerate(axes) if axis), 0)
    if any(len(cells) != len(axes) or any(cells[:first]) for cells in head.values()):
        raise ValueError("the rows above it do not fit together")
    scorers, bodyparts = head["scorer"][first:], head["bodyparts"][first:]
    individuals = head.get("individuals", [""] * len(axes))[first:]
    if len(set(scorers)) != 1:
        raise ValueError("labels of several scorers in one file")
    each = list(map(Point, bodyparts, individuals))
    if axes[first:] != ["x", "y"] * (len(each) // 2) or each[::2] != each[1::2]:
        raise ValueError("columns other than x and y of each bodypart")
    if twice := [point for point, times in Counter(each).items() if times > 2]:
        raise ValueError(f"bodypart {shown(twice[0].bodypart)} has its columns twice")
    return Columns(1 + first, each[::2])


def _frame(row: Sequence[str], columns: Columns, video: str) -> Frame:
    wanted = columns.naming + 2 * len(columns.points)
    if len(row) != wanted:
        raise ValueError(f"{len(row)} cells where {wanted} are wanted")
    named = "/".join(row[: columns.naming]).replace("\\", "/")
    *above, picture = named.split("/")
    if above and above[-1] != video:
        raise ValueError(f"a frame of {shown(above[-1])} in the folder {shown(video)}")
    if picture in ("", ".", ".."):
        raise ValueError(f"{shown(named)} where a picture is named")
    file_name(f"{video}/{picture}", "the picture")
    image_xy = np.array([_number(cell) for cell in row[columns.naming :]]).reshape(-1, 2)
    there = ~np.isnan(image_xy)
    half = there[:, 0] != there[:, 1]
    if half.any():
        bodypart = columns.points[int(half.argmax())].bodypart
        raise ValueError(f"bodypart {shown(bodypart)} has one number of two")
    return Frame(picture, image_xy)


def _number(cell: str) -> float:
    if cell.lower() in ("", "nan"):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if "_" in cell or not abs(value) < MOST:  # Python reads 1_5 as 15
        raise ValueError(f"{shown(cell)} where a number is wanted")
    return value

"""DeepLabCut's tables of labels: a row for each frame, two columns for each point.

Rows `scorer`, `individuals` (of several animals), `bodyparts` and `coords` describe what the columns
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

from hrnet_ray.data.annotations import MAX_COORDINATE, format_value, parse_file_name, read_text_file
from hrnet_ray.errors import DataError

HEADER_ROWS = ("scorer", "individuals", "bodyparts", "coords")
FIX_HINT = "give it as DeepLabCut writes it, or load and save the labels there once more"


@dataclass(frozen=True)
class ColumnKey:
    """What two columns, x and y, are of."""

    bodypart: str
    individual: str = ""
    """Empty where there is one animal."""


@dataclass(frozen=True)
class CsvHeader:
    """The content of the rows above the first frame."""

    num_name_cells: int
    """Cells that name a frame: one or three."""
    column_keys: list[ColumnKey]


@dataclass(frozen=True)
class LabeledFrame:
    """A row."""

    image_name: str
    """File name, in the folder of the table."""
    image_xy: np.ndarray
    """float64 [P, 2], in the order of the table's points; NaN where not labelled."""


@dataclass(frozen=True)
class LabelTable:
    """The labels of one video."""

    path: Path
    column_keys: list[ColumnKey]
    frames: list[LabeledFrame]

    @property
    def video(self) -> str:
        return self.path.parent.name

    def count_labels(self, bodypart: str) -> int:
        """How often a bodypart is labelled."""
        mine = [column for column, point in enumerate(self.column_keys) if point.bodypart == bodypart]
        return sum(int(np.isfinite(frame.image_xy[mine, 0]).sum()) for frame in self.frames)


def read_label_csv(path: Path) -> LabelTable:
    """Read a CollectedData CSV.

    Raises:
        DataError: it is of another form, a cell is no number, or a frame is there twice.
    """
    head: dict[str, list[str]] = {}
    columns: CsvHeader | None = None
    frames: dict[str, LabeledFrame] = {}
    for line, row in _iter_rows(path):
        try:
            if columns is None and row[0] in HEADER_ROWS and row[0] not in head:
                head[row[0]] = row[1:]
                continue
            columns = columns or _parse_header(head)
            frame = _parse_frame(row, columns, path.parent.name)
            if frame.image_name in frames:
                raise ValueError(f"{format_value(frame.image_name)} is there twice")
        except ValueError as error:
            raise DataError(
                f"a row of labels that cannot be read ({error})", f"{path}: line {line}", FIX_HINT
            ) from error
        frames[frame.image_name] = frame
    if columns is None:
        raise DataError("labels of no frame", str(path), "label its frames, or remove the file")
    return LabelTable(path, columns.column_keys, list(frames.values()))


def _iter_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, with their lines."""
    reader = csv.reader(io.StringIO(read_text_file(path), newline=""))
    try:
        for row in reader:
            if any(row):
                yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise DataError(f"a file that is no CSV ({error})", f"{path}: line {reader.line_num}", FIX_HINT) from error


def _parse_header(header_rows: Mapping[str, Sequence[str]]) -> CsvHeader:
    """What the columns are of, from the rows above the first frame.

    Raises:
        ValueError: they are not DeepLabCut's.
    """
    if lost := {"scorer", "bodyparts", "coords"} - header_rows.keys():
        raise ValueError(f"no row {format_value(min(lost))} above it")
    axes = header_rows["coords"]
    first = next((at for at, axis in enumerate(axes) if axis), 0)
    if any(len(cells) != len(axes) or any(cells[:first]) for cells in header_rows.values()):
        raise ValueError("the rows above it do not fit together")
    scorers, bodyparts = header_rows["scorer"][first:], header_rows["bodyparts"][first:]
    individuals = header_rows.get("individuals", [""] * len(axes))[first:]
    if len(set(scorers)) != 1:
        raise ValueError("labels of several scorers in one file")
    each = list(map(ColumnKey, bodyparts, individuals))
    if axes[first:] != ["x", "y"] * (len(each) // 2) or each[::2] != each[1::2]:
        raise ValueError("columns other than x and y of each bodypart")
    if twice := [point for point, times in Counter(each).items() if times > 2]:
        raise ValueError(f"bodypart {format_value(twice[0].bodypart)} has its columns twice")
    return CsvHeader(1 + first, each[::2])


def _parse_frame(row: Sequence[str], header: CsvHeader, video: str) -> LabeledFrame:
    wanted = header.num_name_cells + 2 * len(header.column_keys)
    if len(row) != wanted:
        raise ValueError(f"{len(row)} cells where {wanted} are wanted")
    named = "/".join(row[: header.num_name_cells]).replace("\\", "/")
    *above, picture = named.split("/")
    if above and above[-1] != video:
        raise ValueError(f"a frame of {format_value(above[-1])} in the folder {format_value(video)}")
    if picture in ("", ".", ".."):
        raise ValueError(f"{format_value(named)} where an image is named")
    parse_file_name(f"{video}/{picture}", "the image")
    image_xy = np.array([_parse_coordinate(cell) for cell in row[header.num_name_cells :]]).reshape(-1, 2)
    there = ~np.isnan(image_xy)
    half = there[:, 0] != there[:, 1]
    if half.any():
        bodypart = header.column_keys[int(half.argmax())].bodypart
        raise ValueError(f"bodypart {format_value(bodypart)} has one number of two")
    return LabeledFrame(picture, image_xy)


def _parse_coordinate(cell: str) -> float:
    if cell.lower() in ("", "nan"):
        return math.nan
    try:
        value = float(cell)
    except ValueError:
        value = math.inf
    if "_" in cell or not abs(value) < MAX_COORDINATE:  # Python reads 1_5 as 15
        raise ValueError(f"{format_value(cell)} where a number is wanted")
    return value

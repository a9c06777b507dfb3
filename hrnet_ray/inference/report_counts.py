"""What a prepared data set holds, counted, and what in it deserves a look."""

import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, UnidentifiedImageError

from hrnet_ray.data.manifest import Manifest, read_table
from hrnet_ray.data.rows import LABELS, Arrays, labels_of
from hrnet_ray.data.shards import ROW_GROUP_ROWS
from hrnet_ray.errors import DataError

FEW_KEYPOINTS = 3
"""A pose with so many visible keypoints, or fewer, teaches little and scores by luck."""
SLACK_PX = 1.0
"""Published boxes end one pixel early; a point must be further out than this to count."""
EXAMPLES = 12
"""So many of the things that deserve a look are named."""

NO_SIZE = (np.nan, np.nan)
BOX_EDGES_PX = np.array([0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, np.inf])
ASPECT_EDGES = np.array([0, 0.25, 0.4, 0.6, 0.8, 1.25, 1.67, 2.5, 4, np.inf])


@dataclass(frozen=True)
class Suspects:
    """Things that deserve a look: how many, and the first of them by name."""

    count: int
    examples: list[str]


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """One split: `read == used + sum(skipped.values())`."""

    read: int
    used: int
    skipped: dict[str, int]
    """How many were left out, by reason."""
    notes: list[str]
    pictures: int
    shown: dict[str, int]
    """In how many poses each keypoint is visible."""
    box_px: dict[str, int]
    """Longer sides of the boxes, in pixels of the original picture."""
    aspect: dict[str, int]
    """Width / height of the boxes."""
    few_keypoints: Suspects
    outside_box: Suspects
    outside_picture: Suspects
    """Of a training row only the region around its box is kept; it counts as the picture."""
    unreadable: Suspects

    @property
    def points(self) -> int:
        """Visible keypoints, all poses together."""
        return sum(self.shown.values())


@dataclass(frozen=True)
class Counts:
    """All splits, and the pictures that stand in more than one of them."""

    splits: dict[str, SplitCounts]
    in_both: Suspects
    """By content: a renamed copy counts, two pictures of one name do not."""


def count(manifest: Manifest) -> Counts:
    """Read all labels, and the size of every stored picture.

    Raises:
        DataError: a split without rows, or shards and skipped.csv that do not add up.
    """
    skipped = _skipped_reasons(manifest.root / "skipped.csv")
    splits, pictures = {}, {}
    for name, split in manifest.splits.items():
        if not split.rows:
            raise DataError(
                f"no instance in {name}: {split.read:,} read, {split.skipped:,} skipped",
                str(manifest.root / "skipped.csv"),
                "its third column says why; correct the annotations and prepare them again",
            )
        table = read_table(manifest, name, columns=[*LABELS, "image", "sha256"])
        labels = labels_of(table) | {"image": np.array(table["image"].to_pylist())}
        splits[name] = _count_split(manifest, name, labels, skipped.get(name, {}))
        pictures[name] = dict(zip(table["sha256"].to_pylist(), labels["image"], strict=True))
    return Counts(splits, _in_both(list(pictures.values())))


def _count_split(
    manifest: Manifest, name: str, labels: Arrays, skipped: dict[str, int]
) -> SplitCounts:
    split, keypoints = manifest.splits[name], manifest.skeleton.keypoints
    used = len(labels["id"])
    if split.read != used + sum(skipped.values()):
        raise DataError(
            f"{name}: {split.read:,} read, but {used:,} used + {sum(skipped.values()):,} skipped",
            f"{manifest.root}: manifest.json, {name}/ and skipped.csv are not of one making",
            "prepare the data set again",
        )
    visible, box_xywh = labels["visible"], labels["box_xywh"]
    stored_xywh = np.concatenate(list(_stored_regions(manifest, name)))
    return SplitCounts(
        read=split.read,
        used=used,
        skipped=skipped,
        notes=split.notes,
        pictures=len(set(labels["image"])),
        shown=dict(zip(keypoints, visible.sum(0).tolist(), strict=True)),
        box_px=_histogram(box_xywh[:, 2:].max(1), BOX_EDGES_PX),
        aspect=_histogram(box_xywh[:, 2] / box_xywh[:, 3], ASPECT_EDGES),
        few_keypoints=_poses(labels, visible.sum(1) <= FEW_KEYPOINTS),
        outside_box=_points(labels, visible & _outside(labels["image_xy"], box_xywh), keypoints),
        outside_picture=_points(
            labels, visible & _outside(labels["image_xy"], stored_xywh), keypoints
        ),
        unreadable=_poses(labels, np.isnan(stored_xywh[:, 0])),
    )


def _skipped_reasons(path: Path) -> dict[str, dict[str, int]]:
    found: dict[str, Counter[str]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            found.setdefault(line["split"], Counter())[line["reason"]] += 1
    return {split: dict(reasons.most_common()) for split, reasons in found.items()}


def _outside(xy: np.ndarray, xywh: np.ndarray) -> np.ndarray:
    """Which points [N, K, 2] lie outside their rectangle [N, 4]; none does where it is NaN."""
    low = xywh[:, None, :2] - SLACK_PX
    high = xywh[:, None, :2] + xywh[:, None, 2:] + SLACK_PX
    return np.any((xy < low) | (xy > high), axis=-1)


def _stored_regions(manifest: Manifest, split: str) -> Iterator[np.ndarray]:
    """Which part of its picture each row keeps: (x, y, w, h), NaN for bytes that are no picture.

    As with boxes, x + w is the last pixel, not the one after it.
    """
    for path in manifest.files(split):
        columns = ["picture", "stored_from_image"]
        for batch in pq.ParquetFile(path).iter_batches(ROW_GROUP_ROWS, columns=columns):
            sizes_hw = [stored_hw(data.as_py()) or NO_SIZE for data in batch["picture"]]
            stored_wh = np.array(sizes_hw)[:, ::-1]
            matrix = _matrices(batch["stored_from_image"])
            scale_xy, shift_xy = matrix[:, (0, 1), (0, 1)], matrix[:, :2, 2]
            # Edges lie half a pixel outside of the first and the last pixel's middle.
            first_xy = (-0.5 - shift_xy) / scale_xy + 0.5
            last_xy = (stored_wh - 0.5 - shift_xy) / scale_xy - 0.5
            yield np.concatenate([first_xy, last_xy - first_xy], 1)


def _matrices(column: pa.Array) -> np.ndarray:
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, 3, 3)


def stored_hw(data: bytes) -> tuple[int, int] | None:
    """Rows and columns of a picture, from its header alone; None for bytes that are none."""
    try:
        with Image.open(io.BytesIO(data)) as picture:
            return picture.height, picture.width
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError):
        return None


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(values, edges)
    spans = [_span(low, high) for low, high in pairwise(edges.tolist())]
    return dict(zip(spans, counts.tolist(), strict=True))


def _span(low: float, high: float) -> str:
    if high == np.inf:
        return f"{low:g} and more"
    return f"under {high:g}" if low == 0 else f"{low:g} to {high:g}"


def _poses(labels: Arrays, suspect: np.ndarray) -> Suspects:
    where = np.flatnonzero(suspect).tolist()
    return Suspects(len(where), [_pose_name(labels, at) for at in where[:EXAMPLES]])


def _points(labels: Arrays, suspect: np.ndarray, keypoints: Sequence[str]) -> Suspects:
    where = np.argwhere(suspect).tolist()
    named = [f"{_pose_name(labels, at)}: {keypoints[k]}" for at, k in where[:EXAMPLES]]
    return Suspects(len(where), named)


def _pose_name(labels: Arrays, at: int) -> str:
    """The file and the id by which a person finds an instance again."""
    return f"{labels['image'][at]} #{labels['id'][at]}"


def _in_both(splits: Sequence[dict[str, str]]) -> Suspects:
    """Find sha256s that stand in several splits, each of which names its pictures by them."""
    times = Counter(sha256 for pictures in splits for sha256 in pictures)
    names = {sha256: name for pictures in splits for sha256, name in pictures.items()}
    doubled = sorted(str(names[sha256]) for sha256, n in times.items() if n > 1)
    return Suspects(len(doubled), doubled[:EXAMPLES])


def write_csv(counts: Counts, path: Path) -> None:
    """All figures, one a line: split, what, which, count."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["split", "what", "which", "count"])
        for name, split in counts.splits.items():
            for what, which, number in _figures(split):
                table.writerow([_cell(name), what, _cell(which), number])
        table.writerow(["all", "pictures", "in more than one split", counts.in_both.count])


def _figures(split: SplitCounts) -> Iterator[tuple[str, str, int]]:
    yield "instances", "read", split.read
    yield "instances", "used", split.used
    for reason, number in split.skipped.items():
        yield "skipped", reason, number
    yield "pictures", "used", split.pictures
    yield "pictures", "unreadable", split.unreadable.count
    yield "instances", f"{FEW_KEYPOINTS} keypoints or fewer", split.few_keypoints.count
    yield "points", "visible", split.points
    yield "points", "outside their box", split.outside_box.count
    yield "points", "outside the picture", split.outside_picture.count
    for what, table in (("visible", split.shown), ("box px", split.box_px)):
        for which, number in table.items():
            yield what, which, number
    for which, number in split.aspect.items():
        yield "box width / height", which, number


def _cell(text: str) -> str:
    """A spreadsheet would run a cell that starts like a formula."""
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text

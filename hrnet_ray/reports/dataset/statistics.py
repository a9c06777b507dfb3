"""What a prepared data set holds, counted, and what in it deserves a look."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hrnet_ray.data.manifest import Manifest, read_table
from hrnet_ray.data.records import LABELS, Arrays, labels_of
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError
from hrnet_ray.reports.dataset.duplicates import Stored, copies, lookalikes, open_stored
from hrnet_ray.reports.dataset.issues import Findings, Kind, Spot, of_labels, pose_name
from hrnet_ray.reports.dataset.left_right_swaps import Sides, doubts, exchanged, learn_sides

BOX_EDGES_PX = np.array([0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, np.inf])
ASPECT_EDGES = np.array([0, 0.25, 0.4, 0.6, 0.8, 1.25, 1.67, 2.5, 4, np.inf])


class SkippedItem(NamedTuple):
    """One line of skipped.csv."""

    item: str
    reason: str
    detail: str


@dataclass(frozen=True, kw_only=True)
class SplitCounts:
    """One split: `read == used + len(skipped)`."""

    read: int
    used: int
    skipped: list[SkippedItem]
    notes: list[str]
    pictures: int
    shown: dict[str, int]
    """In how many poses each keypoint is visible."""
    per_pose: dict[str, int]
    """How many poses have so many visible keypoints."""
    box_px: dict[str, int]
    """Longer sides of the boxes, in pixels of the original picture."""
    aspect: dict[str, int]
    """Width / height of the boxes."""
    findings: Findings

    @property
    def reasons(self) -> dict[str, int]:
        """How many were left out, by reason, the most frequent first."""
        return dict(Counter(thing.reason for thing in self.skipped).most_common())

    @property
    def points(self) -> int:
        """Visible keypoints, all poses together."""
        return sum(self.shown.values())


@dataclass(frozen=True, kw_only=True)
class PairCounts:
    """A left and a right keypoint, all splits together."""

    name: str
    whole: int
    """Poses that show both."""
    told: int | None
    """Poses whose other keypoints tell clearly which of the two is which; None: not judged."""
    exchanged: int
    """Of these, the ones that seem to be labelled the other way round."""


@dataclass(frozen=True)
class Counts:
    """All splits, what deserves a look in them, and how left and right lie."""

    splits: dict[str, SplitCounts]
    pairs: list[PairCounts]
    doubts: list[str]
    """What speaks against the skeleton, not against single poses."""

    def worth_a_look(self) -> dict[Kind, int]:
        """How many of each kind there are in all splits, the gravest kind first."""
        sums = {kind: sum(len(s.findings[kind]) for s in self.splits.values()) for kind in Kind}
        return {kind: number for kind, number in sums.items() if number}


def count(manifest: Manifest, *, progress: Callable[[str], Progress] | None = None) -> Counts:
    """Read all labels, and open every stored picture once.

    Memory grows by the labels (about 1 kB a row), never by the pictures.

    Raises:
        DataError: a split without rows, or shards and skipped.csv that do not add up.
    """
    skipped = _skipped(manifest)
    labels = {name: _labels(manifest, name, skipped.get(name, [])) for name in manifest.splits}
    stored = {
        name: open_stored(manifest, name, progress(name) if progress else None) for name in labels
    }
    learnt_from = labels.get("train") or next(iter(labels.values()))
    xy, visible = learnt_from["image_xy"], learnt_from["visible"]
    sides = learn_sides(xy, visible, manifest.skeleton)
    judged = {
        name: exchanged(sides, part["image_xy"], part["visible"]) for name, part in labels.items()
    }
    same, alike = copies(labels), lookalikes(labels, stored)
    splits = {}
    for name, part in labels.items():
        of_sides = {Kind.EXCHANGED: _exchanged(part, *judged[name], sides)}
        others = same[name] | alike[name] | of_sides
        splits[name] = _count_split(
            manifest, name, part, skipped.get(name, []), stored[name], others
        )
    return Counts(
        splits, _pair_counts(labels, judged, sides), doubts(xy, visible, manifest.skeleton)
    )


def _labels(manifest: Manifest, name: str, skipped: list[SkippedItem]) -> Arrays:
    split = manifest.splits[name]
    if not split.rows:
        raise DataError(
            f"no instance in {name}: {split.read:,} read, {split.skipped:,} skipped",
            _skipped_at(manifest),
            "its third column says why; correct the annotations and prepare them again",
        )
    table = read_table(manifest, name, columns=[*LABELS, "image", "sha256"])
    if split.read != table.num_rows + len(skipped):
        raise DataError(
            f"{name}: {split.read:,} read, but {table.num_rows:,} used + {len(skipped):,} skipped",
            f"{manifest.root}: manifest.json, {name}/ and skipped.csv are not of one making",
            "prepare the data set again",
        )
    texts = {column: np.array(table[column].to_pylist(), object) for column in ("image", "sha256")}
    return labels_of(table) | texts


def _skipped_at(manifest: Manifest) -> str:
    return manifest.folder.uri("skipped.csv")


def _skipped(manifest: Manifest) -> dict[str, list[SkippedItem]]:
    found: dict[str, list[SkippedItem]] = {}
    try:
        text = manifest.folder.read_bytes("skipped.csv").decode()
        for line in csv.DictReader(io.StringIO(text, newline="")):
            item = SkippedItem(line["item"], line["reason"], line["detail"])
            found.setdefault(line["split"], []).append(item)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(
            "a list of skipped instances that cannot be read",
            f"{_skipped_at(manifest)}: {type(error).__name__}: {error}",
            "copy it again, or prepare the data set again",
        ) from error
    return found


def _count_split(
    manifest: Manifest,
    name: str,
    labels: Arrays,
    skipped: list[SkippedItem],
    stored: Stored,
    others: Findings,
) -> SplitCounts:
    split, keypoints = manifest.splits[name], manifest.skeleton.keypoints
    visible, box_xywh = labels["visible"], labels["box_xywh"]
    per_pose = np.bincount(visible.sum(1), minlength=len(keypoints) + 1)
    findings = of_labels(name, labels, stored.xywh, keypoints) | others
    return SplitCounts(
        read=split.read,
        used=len(visible),
        skipped=skipped,
        notes=split.notes,
        pictures=len(set(labels["image"])),
        shown=dict(zip(keypoints, visible.sum(0).tolist(), strict=True)),
        per_pose={str(n): many for n, many in enumerate(per_pose.tolist())},
        box_px=_histogram(box_xywh[:, 2:].max(1), BOX_EDGES_PX),
        aspect=_histogram(box_xywh[:, 2] / box_xywh[:, 3], ASPECT_EDGES),
        findings={kind: findings[kind] for kind in Kind},
    )


def _histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(values, edges)
    spans = [_span(low, high) for low, high in pairwise(edges.tolist())]
    return dict(zip(spans, counts.tolist(), strict=True))


def _span(low: float, high: float) -> str:
    if high == np.inf:
        return f"{low:g} and more"
    return f"under {high:g}" if low == 0 else f"{low:g} to {high:g}"


def _exchanged(labels: Arrays, found: np.ndarray, odds: np.ndarray, sides: Sides) -> list[Spot]:
    """The surest first."""
    spots = []
    whole = np.all(labels["visible"][:, sides.pairs], axis=-1)
    rows = np.flatnonzero(found.any(1))
    surest = np.where(found, odds, 0)[rows].min(1, initial=0.0)  # without pairs, too
    for row in rows[np.argsort(surest, kind="stable")].tolist():
        pairs = np.flatnonzero(found[row])
        keypoints = tuple(sides.pairs[pairs].ravel().tolist())
        all_of_them = len(pairs) > 1 and len(pairs) == whole[row].sum()
        names = "all pairs" if all_of_them else ", ".join(sides.name(pair) for pair in pairs)
        spots.append(Spot(row, pose_name(labels, row), names, keypoints))
    return spots


def _pair_counts(
    labels: dict[str, Arrays], judged: dict[str, tuple[np.ndarray, np.ndarray]], sides: Sides
) -> list[PairCounts]:
    visible = np.concatenate([part["visible"] for part in labels.values()])
    whole = np.all(visible[:, sides.pairs], axis=-1).sum(0)
    found = np.concatenate([found for found, _ in judged.values()])
    told = sides.told(np.concatenate([odds for _, odds in judged.values()])).sum(0)
    return [
        PairCounts(
            name=sides.name(pair),
            whole=int(whole[pair]),
            told=int(told[pair]) if sides.learnt[pair] else None,
            exchanged=int(found[:, pair].sum()),
        )
        for pair in range(len(sides.pairs))
    ]

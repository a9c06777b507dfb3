"""Statistics of a prepared dataset, and its possible issues."""

import csv
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.data.records import LABEL_COLUMNS, Arrays, get_label_columns
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError
from hrnet_ray.reports.dataset.duplicates import (
    StoredImages,
    find_exact_duplicates,
    find_near_duplicates,
    scan_stored_images,
)
from hrnet_ray.reports.dataset.issues import (
    DatasetIssue,
    IssuesByType,
    IssueType,
    find_label_issues,
    format_instance_label,
)
from hrnet_ray.reports.dataset.left_right_swaps import (
    LeftRightModel,
    check_skeleton_pairs,
    detect_swaps,
    estimate_left_right_model,
)

BOX_SIZE_EDGES_PX = np.array([0, 32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, np.inf])
ASPECT_EDGES = np.array([0, 0.25, 0.4, 0.6, 0.8, 1.25, 1.67, 2.5, 4, np.inf])


class SkippedRow(NamedTuple):
    """One line of skipped.csv."""

    item: str
    reason: str
    detail: str

    @property
    def label(self) -> str:
        """The item with its detail, as a page shows it."""
        return f"{self.item}: {self.detail}" if self.detail else self.item


@dataclass(frozen=True, kw_only=True)
class SplitStatistics:
    """Statistics of one split; `rows_read == rows_used + len(skipped_rows)`."""

    rows_read: int
    rows_used: int
    skipped_rows: list[SkippedRow]
    notes: list[str]
    num_images: int
    visible_per_keypoint: dict[str, int]
    """Number of poses in which each keypoint is visible."""
    poses_per_visible_count: dict[str, int]
    """Number of poses by their number of visible keypoints."""
    box_size_px_histogram: dict[str, int]
    """Longer sides of the boxes, in pixels of the original image."""
    aspect_ratio_histogram: dict[str, int]
    """Width / height of the boxes."""
    issues: IssuesByType

    @property
    def skip_reason_counts(self) -> dict[str, int]:
        """Number of skipped rows by reason, the most frequent first."""
        return dict(Counter(row.reason for row in self.skipped_rows).most_common())

    @property
    def num_visible_keypoints(self) -> int:
        """Number of visible keypoints of all poses."""
        return sum(self.visible_per_keypoint.values())


@dataclass(frozen=True, kw_only=True)
class LeftRightStatistics:
    """Statistics of one left/right pair over all splits."""

    name: str
    num_complete: int
    """Poses in which both keypoints are visible."""
    num_decided: int | None
    """Poses whose other keypoints show clearly which keypoint is which; None if not checked."""
    num_swapped: int
    """Poses in which the pair looks swapped."""


@dataclass(frozen=True)
class DatasetStatistics:
    """Statistics of all splits, and of the left/right pairs."""

    splits: dict[str, SplitStatistics]
    left_right_pairs: list[LeftRightStatistics]
    skeleton_warnings: list[str]
    """Doubts about the skeleton itself, not about single poses."""

    def count_issues(self) -> dict[IssueType, int]:
        """Count the issues of each kind in all splits, the most severe kind first."""
        sums = {kind: sum(len(s.issues[kind]) for s in self.splits.values()) for kind in IssueType}
        return {kind: count for kind, count in sums.items() if count}


def compute_statistics(
    manifest: DatasetManifest, *, progress: Callable[[str], ProgressCallback] | None = None
) -> DatasetStatistics:
    """Read all labels and decode every stored image once.

    Memory grows with the labels (about 1 kB per row), not with the images.

    Raises:
        DataError: a split has no rows, or shards and skipped.csv disagree with the manifest.
    """
    skipped = _load_skipped_rows(manifest)
    labels = {name: _load_split_labels(manifest, name, skipped.get(name, [])) for name in manifest.splits}
    stored = {name: scan_stored_images(manifest, name, progress(name) if progress else None) for name in labels}
    reference = labels.get("train") or next(iter(labels.values()))
    xy, visible = reference["image_xy"], reference["visible"]
    model = estimate_left_right_model(xy, visible, manifest.skeleton)
    swaps = {name: detect_swaps(model, part["image_xy"], part["visible"]) for name, part in labels.items()}
    exact, near = find_exact_duplicates(labels), find_near_duplicates(labels, stored)
    splits = {}
    for name, part in labels.items():
        swapped = {IssueType.LEFT_RIGHT_SWAP: _build_swap_issues(part, *swaps[name], model)}
        others = exact[name] | near[name] | swapped
        splits[name] = _compute_split_statistics(manifest, name, part, skipped.get(name, []), stored[name], others)
    return DatasetStatistics(
        splits,
        _compute_pair_statistics(labels, swaps, model),
        check_skeleton_pairs(xy, visible, manifest.skeleton),
    )


def _load_split_labels(manifest: DatasetManifest, split_name: str, skipped_rows: list[SkippedRow]) -> Arrays:
    split = manifest.splits[split_name]
    if not split.rows:
        raise DataError(
            f"{split_name} has no instances: {split.read:,} read, {split.skipped:,} skipped",
            _get_skipped_csv_uri(manifest),
            "the third column has the reasons; correct the annotations and prepare again",
        )
    table = read_split(manifest, split_name, columns=[*LABEL_COLUMNS, "image", "sha256"])
    if split.read != table.num_rows + len(skipped_rows):
        raise DataError(
            f"{split_name}: {split.read:,} read, but {table.num_rows:,} used + {len(skipped_rows):,} skipped",
            f"{manifest.root}: manifest.json, {split_name}/ and skipped.csv do not belong together",
            "prepare the dataset again",
        )
    texts = {column: np.array(table[column].to_pylist(), object) for column in ("image", "sha256")}
    return get_label_columns(table) | texts


def _get_skipped_csv_uri(manifest: DatasetManifest) -> str:
    return manifest.folder.get_uri("skipped.csv")


def _load_skipped_rows(manifest: DatasetManifest) -> dict[str, list[SkippedRow]]:
    found: dict[str, list[SkippedRow]] = {}
    try:
        text = manifest.folder.read_bytes("skipped.csv").decode()
        for line in csv.DictReader(io.StringIO(text, newline="")):
            item = SkippedRow(line["item"], line["reason"], line["detail"])
            found.setdefault(line["split"], []).append(item)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError) as error:
        raise DataError(
            "the list of skipped rows cannot be read",
            f"{_get_skipped_csv_uri(manifest)}: {type(error).__name__}: {error}",
            "copy it again, or prepare the dataset again",
        ) from error
    return found


def _compute_split_statistics(
    manifest: DatasetManifest,
    split_name: str,
    labels: Arrays,
    skipped_rows: list[SkippedRow],
    stored_images: StoredImages,
    other_issues: IssuesByType,
) -> SplitStatistics:
    split, keypoints = manifest.splits[split_name], manifest.skeleton.keypoints
    visible, box_xywh = labels["visible"], labels["box_xywh"]
    per_pose = np.bincount(visible.sum(1), minlength=len(keypoints) + 1)
    findings = find_label_issues(split_name, labels, stored_images.stored_xywh, keypoints) | other_issues
    return SplitStatistics(
        rows_read=split.read,
        rows_used=len(visible),
        skipped_rows=skipped_rows,
        notes=split.notes,
        num_images=len(set(labels["image"])),
        visible_per_keypoint=dict(zip(keypoints, visible.sum(0).tolist(), strict=True)),
        poses_per_visible_count={str(n): count for n, count in enumerate(per_pose.tolist())},
        box_size_px_histogram=_compute_histogram(box_xywh[:, 2:].max(1), BOX_SIZE_EDGES_PX),
        aspect_ratio_histogram=_compute_histogram(box_xywh[:, 2] / box_xywh[:, 3], ASPECT_EDGES),
        issues={kind: findings[kind] for kind in IssueType},
    )


def _compute_histogram(values: np.ndarray, edges: np.ndarray) -> dict[str, int]:
    counts, _ = np.histogram(values, edges)
    spans = [_format_bin_range(low, high) for low, high in pairwise(edges.tolist())]
    return dict(zip(spans, counts.tolist(), strict=True))


def _format_bin_range(low: float, high: float) -> str:
    if high == np.inf:
        return f"{low:g} and more"
    return f"under {high:g}" if low == 0 else f"{low:g} to {high:g}"


def _build_swap_issues(
    labels: Arrays, is_swapped: np.ndarray, log_odds: np.ndarray, left_right_model: LeftRightModel
) -> list[DatasetIssue]:
    """Build an issue for each pose with a swapped pair, the most certain first."""
    issues = []
    is_complete = np.all(labels["visible"][:, left_right_model.pairs], axis=-1)
    rows = np.flatnonzero(is_swapped.any(1))
    certainty = np.where(is_swapped, log_odds, 0)[rows].min(1, initial=0.0)  # also without pairs
    for row in rows[np.argsort(certainty, kind="stable")].tolist():
        pairs = np.flatnonzero(is_swapped[row])
        keypoints = tuple(left_right_model.pairs[pairs].ravel().tolist())
        are_all_swapped = len(pairs) > 1 and len(pairs) == is_complete[row].sum()
        names = "all pairs" if are_all_swapped else ", ".join(left_right_model.format_pair_name(pair) for pair in pairs)
        issues.append(DatasetIssue(row, format_instance_label(labels, row), names, keypoints))
    return issues


def _compute_pair_statistics(
    labels_by_split: dict[str, Arrays],
    swaps_by_split: dict[str, tuple[np.ndarray, np.ndarray]],
    left_right_model: LeftRightModel,
) -> list[LeftRightStatistics]:
    visible = np.concatenate([part["visible"] for part in labels_by_split.values()])
    num_complete = np.all(visible[:, left_right_model.pairs], axis=-1).sum(0)
    is_swapped = np.concatenate([swapped for swapped, _ in swaps_by_split.values()])
    num_decided = left_right_model.is_confident(np.concatenate([odds for _, odds in swaps_by_split.values()])).sum(0)
    return [
        LeftRightStatistics(
            name=left_right_model.format_pair_name(pair),
            num_complete=int(num_complete[pair]),
            num_decided=int(num_decided[pair]) if left_right_model.is_pair_learned[pair] else None,
            num_swapped=int(is_swapped[:, pair].sum()),
        )
        for pair in range(len(left_right_model.pairs))
    ]

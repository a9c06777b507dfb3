"""COCO's OKS figures in parts, so that pictures can be drawn again and again for an interval.

What is decided within a picture (which pose finds which instance) is decided once; AP is then the
work of a fraction of a millisecond for any number of times that each picture counts. On the whole
set it is what COCO's own evaluation says, and tests hold it to that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

OKS_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_THRESHOLDS = np.linspace(0.0, 1.0, 101)
MAX_POSES_PER_IMAGE = 20
"""COCO looks at so many poses of a picture, the surest first."""
NMS_OKS_THRESHOLD = 0.9
"""Two poses that are more alike than this are one, as published."""
EPS = np.spacing(1)

GroundTruthColumns = Mapping[str, np.ndarray]
"""The label columns (`data.rows.labels_of`), and `picture`: int64 [N], the place of its picture."""


@dataclass(frozen=True)
class DetectedPoses:
    """N poses that were found, whatever boxes they were looked for in."""

    image_index: np.ndarray
    """int64 [N]: the place of its picture."""
    image_id: np.ndarray
    """int64 [N]: what the annotations call that picture."""
    category_id: np.ndarray
    image_xy: np.ndarray
    """float64 [N, K, 2], image pixels."""
    keypoint_scores: np.ndarray
    """float64 [N, K]: of the heatmaps at the keypoints."""
    score: np.ndarray
    """float64 [N]: the box's, times the mean height of the confident keypoints."""
    area: np.ndarray
    """float64 [N]: of the padded box, which says how far apart poses of one animal may lie."""

    def __len__(self) -> int:
        return len(self.score)

    def select_poses(self, selection: np.ndarray) -> "DetectedPoses":
        """Some of the poses, by number or by a mask."""
        return DetectedPoses(**{name: column[selection] for name, column in vars(self).items()})


def compute_oks_matrix(
    found_image_xy: np.ndarray,
    truth: GroundTruthColumns,
    instance_rows: np.ndarray,
    sigmas: Sequence[float],
) -> np.ndarray:
    """OKS of D poses [D, K, 2] with the instances of G rows: float64 [D, G].

    An instance without a visible keypoint is compared with twice its box, as COCO does.
    """
    variances = (np.array(sigmas) * 2) ** 2
    similar = np.zeros((len(found_image_xy), len(instance_rows)))
    for at, row in enumerate(instance_rows):
        seen = truth["visible"][row]
        away = found_image_xy - truth["image_xy"][row]
        if not seen.any():
            corner, size = truth["box_xywh"][row, :2], truth["box_xywh"][row, 2:]
            low, high = corner - size, corner + 2 * size
            away = np.maximum(0, low - found_image_xy) + np.maximum(0, found_image_xy - high)
            seen = ~seen
        # In COCO's order of operations: the last bit decides when a pose lies on a threshold.
        squares = away[..., 0] ** 2 + away[..., 1] ** 2
        error = squares / variances / (truth["area"][row] + EPS) / 2
        similar[:, at] = [pose.sum() / len(pose) for pose in np.exp(-error[:, seen])]
    return similar


def apply_oks_nms(
    poses: DetectedPoses, sigmas: Sequence[float], *, max_oks: float = NMS_OKS_THRESHOLD
) -> np.ndarray:
    """OKS-NMS within each picture and category: bool [N], False for what repeats a surer pose.

    As published: the surest pose stays, and all that are more than `most` like it go; the areas of
    the two padded boxes are averaged.
    """
    stays = np.zeros(len(poses), bool)
    for members in _group_rows(poses.image_index, poses.category_id):
        waiting = members[np.argsort(-poses.score[members], kind="stable")]
        while len(waiting):
            first, rest = waiting[0], waiting[1:]
            stays[first] = True
            waiting = rest[_compute_pose_similarity(poses, first, rest, sigmas) <= max_oks]
    return stays


def _compute_pose_similarity(
    poses: DetectedPoses, pose_index: np.intp, other_indices: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    variances = (np.array(sigmas) * 2) ** 2
    squares = ((poses.image_xy[other_indices] - poses.image_xy[pose_index]) ** 2).sum(-1)
    area = (poses.area[other_indices] + poses.area[pose_index]) / 2 + EPS
    return np.exp(-squares / variances / area[:, None] / 2).mean(-1)


def _group_rows(*keys: np.ndarray) -> list[np.ndarray]:
    """Row numbers that share all keys, each group in ascending order."""
    if not len(keys[0]):
        return []
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)


@dataclass(frozen=True)
class OksMatches:
    """D poses, the surest first, and what became of each at each of T thresholds."""

    image_index: np.ndarray
    """int [D]"""
    category_index: np.ndarray
    """int [D]: its place among the categories."""
    true_positive: np.ndarray
    """bool [T, D]: it found an instance."""
    false_positive: np.ndarray
    """bool [T, D]: it found none. Neither hit nor miss: what it found does not count."""
    instance_counts: np.ndarray
    """int [C, P]: instances to be found of each category in each picture."""
    pose_instance_pairs: np.ndarray
    """int [M, 2]: pose and instance that match at the lowest threshold."""


def match_poses(
    poses: DetectedPoses, truth: GroundTruthColumns, sigmas: Sequence[float], *, num_images: int
) -> OksMatches:
    """Let poses find instances, picture by picture, as COCO does: the surest pose chooses first."""
    categories = np.unique(truth["category_id"])
    counts = _get_scored_mask(truth)
    rows, pairs = [np.zeros(0, int)], [np.zeros((0, 2), int)]
    hits, misses = ([np.zeros((len(OKS_THRESHOLDS), 0), bool)] for _ in range(2))
    for members, wanted in _iter_match_groups(poses, truth):
        similar = compute_oks_matrix(poses.image_xy[members], truth, wanted, sigmas)
        found = _assign_instances(similar, counts[wanted])
        rows.append(members)
        hits.append(np.append(counts[wanted], False)[found])  # -1, none, is the last one
        misses.append(found < 0)
        lenient = found[0]
        pairs.append(np.stack([members, np.append(wanted, -1)[lenient]], 1)[lenient >= 0])
    row = np.concatenate(rows)
    order = np.argsort(-poses.score[row], kind="stable")
    return OksMatches(
        image_index=poses.image_index[row][order],
        category_index=np.searchsorted(categories, poses.category_id[row])[order],
        true_positive=np.concatenate(hits, 1)[:, order],
        false_positive=np.concatenate(misses, 1)[:, order],
        instance_counts=_count_instances(truth, categories, num_images),
        pose_instance_pairs=np.concatenate(pairs),
    )


def _get_scored_mask(truth: GroundTruthColumns) -> np.ndarray:
    """An instance without a visible keypoint is not looked for: bool [N]."""
    return np.asarray(truth["visible"].any(axis=1))


def _iter_match_groups(
    poses: DetectedPoses, truth: GroundTruthColumns
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Poses and instances of one picture and category: the surest, and those that count, first."""
    counts = _get_scored_mask(truth)
    there = {
        (int(truth["picture"][rows[0]]), int(truth["category_id"][rows[0]])): rows
        for rows in _group_rows(truth["picture"], truth["category_id"])
    }
    for members in _group_rows(poses.image_index, poses.category_id):
        key = int(poses.image_index[members[0]]), int(poses.category_id[members[0]])
        wanted = there.get(key, np.zeros(0, int))
        surest = np.argsort(-poses.score[members], kind="stable")[:MAX_POSES_PER_IMAGE]
        yield members[surest], wanted[np.argsort(~counts[wanted], kind="stable")]


def _count_instances(
    truth: GroundTruthColumns, category_ids: np.ndarray, num_images: int
) -> np.ndarray:
    counts = _get_scored_mask(truth)
    instances = np.zeros((len(category_ids), num_images), int)
    place = np.searchsorted(category_ids, truth["category_id"][counts])
    np.add.at(instances, (place, truth["picture"][counts]), 1)
    return instances


def _assign_instances(oks_matrix: np.ndarray, scored_mask: np.ndarray) -> np.ndarray:
    """Which instance each pose finds at each threshold, -1 for none: int [T, D].

    An instance is found once. A pose prefers the most similar of those that count, and takes one
    that does not count only where none of the others is similar enough.
    """
    poses, instances = oks_matrix.shape
    found = np.full((len(OKS_THRESHOLDS), poses), -1)
    limits = np.minimum(OKS_THRESHOLDS, 1 - 1e-10)
    free = np.ones((len(limits), instances), bool)
    every = np.arange(len(limits))
    for pose in range(poses):
        possible = free & (oks_matrix[pose] >= limits[:, None])
        preferred = possible & scored_mask
        possible = np.where(preferred.any(1, keepdims=True), preferred, possible)
        if not possible.any():
            continue
        # Of equals the last one, as COCO walks through them.
        ranked = np.where(possible, oks_matrix[pose], -1.0)[:, ::-1]
        best = instances - 1 - ranked.argmax(1)
        takes = possible.any(1)
        found[takes, pose] = best[takes]
        free[every[takes], best[takes]] = False
    return found


def compute_average_precision(
    matches: OksMatches, image_counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR at each threshold, float64 [T] each, where picture p counts `times[p]` times.

    A category without an instance in these pictures does not count; NaN where there is none at all.
    """
    weights = np.ones(matches.instance_counts.shape[1]) if image_counts is None else image_counts
    figures = []
    for category, instances in enumerate(matches.instance_counts):
        if total := float(instances @ weights):
            own = matches.category_index == category
            of = slice(None) if own.all() else own
            figures.append(
                _compute_precision_recall(
                    matches.true_positive[:, of],
                    matches.false_positive[:, of],
                    weights[matches.image_index[of]],
                    total,
                )
            )
    if not figures:
        return np.full(len(OKS_THRESHOLDS), np.nan), np.full(len(OKS_THRESHOLDS), np.nan)
    precision, recall = np.mean(figures, 0)
    return precision, recall


def _compute_precision_recall(
    true_positive: np.ndarray, false_positive: np.ndarray, weights: np.ndarray, num_instances: float
) -> tuple[np.ndarray, np.ndarray]:
    if not true_positive.shape[1]:
        return np.zeros(len(true_positive)), np.zeros(len(true_positive))
    hits, misses = (true_positive * weights).cumsum(1), (false_positive * weights).cumsum(1)
    recall, precision = hits / num_instances, hits / (hits + misses + EPS)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.append(precision, np.zeros((len(true_positive), 1)), 1)  # beyond the last recall
    at = [np.searchsorted(row, RECALL_THRESHOLDS, side="left") for row in recall]
    return np.take_along_axis(precision, np.array(at), 1).mean(1), recall[:, -1]

"""COCO's OKS figures in parts, so that pictures can be drawn again and again for an interval.

What is decided within a picture (which pose finds which instance) is decided once; AP is then the
work of a fraction of a millisecond for any number of times that each picture counts. On the whole
set it is what COCO's own evaluation says, and tests hold it to that.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST_POSES = 20
"""COCO looks at so many poses of a picture, the surest first."""
NMS_OKS = 0.9
"""Two poses that are more alike than this are one, as published."""
EPS = np.spacing(1)

Truth = Mapping[str, np.ndarray]
"""The label columns (`data.rows.labels_of`), and `picture`: int64 [N], the place of its picture."""


@dataclass(frozen=True)
class Poses:
    """N poses that were found, whatever boxes they were looked for in."""

    picture: np.ndarray
    """int64 [N]: the place of its picture."""
    image_id: np.ndarray
    """int64 [N]: what the annotations call that picture."""
    category_id: np.ndarray
    image_xy: np.ndarray
    """float64 [N, K, 2], image pixels."""
    heights: np.ndarray
    """float64 [N, K]: of the heatmaps at the keypoints."""
    score: np.ndarray
    """float64 [N]: the box's, times the mean height of the confident keypoints."""
    area: np.ndarray
    """float64 [N]: of the padded box, which says how far apart poses of one animal may lie."""

    def __len__(self) -> int:
        return len(self.score)

    def take(self, which: np.ndarray) -> "Poses":
        """Some of the poses, by number or by a mask."""
        return Poses(**{name: column[which] for name, column in vars(self).items()})


def similarity(
    found_xy: np.ndarray, truth: Truth, instances: np.ndarray, sigmas: Sequence[float]
) -> np.ndarray:
    """OKS of D poses [D, K, 2] with the instances of G rows: float64 [D, G].

    An instance without a visible keypoint is compared with twice its box, as COCO does.
    """
    variances = (np.array(sigmas) * 2) ** 2
    similar = np.zeros((len(found_xy), len(instances)))
    for at, row in enumerate(instances):
        seen = truth["visible"][row]
        away = found_xy - truth["image_xy"][row]
        if not seen.any():
            corner, size = truth["box_xywh"][row, :2], truth["box_xywh"][row, 2:]
            low, high = corner - size, corner + 2 * size
            away = np.maximum(0, low - found_xy) + np.maximum(0, found_xy - high)
            seen = ~seen
        # In COCO's order of operations: the last bit decides when a pose lies on a threshold.
        squares = away[..., 0] ** 2 + away[..., 1] ** 2
        error = squares / variances / (truth["area"][row] + EPS) / 2
        similar[:, at] = [pose.sum() / len(pose) for pose in np.exp(-error[:, seen])]
    return similar


def survivors(poses: Poses, sigmas: Sequence[float], *, most: float = NMS_OKS) -> np.ndarray:
    """OKS-NMS within each picture and category: bool [N], False for what repeats a surer pose.

    As published: the surest pose stays, and all that are more than `most` like it go; the areas of
    the two padded boxes are averaged.
    """
    stays = np.zeros(len(poses), bool)
    for members in _groups(poses.picture, poses.category_id):
        waiting = members[np.argsort(-poses.score[members], kind="stable")]
        while len(waiting):
            first, rest = waiting[0], waiting[1:]
            stays[first] = True
            waiting = rest[_alike(poses, first, rest, sigmas) <= most]
    return stays


def _alike(poses: Poses, first: np.intp, others: np.ndarray, sigmas: Sequence[float]) -> np.ndarray:
    variances = (np.array(sigmas) * 2) ** 2
    squares = ((poses.image_xy[others] - poses.image_xy[first]) ** 2).sum(-1)
    area = (poses.area[others] + poses.area[first]) / 2 + EPS
    return np.exp(-squares / variances / area[:, None] / 2).mean(-1)


def _groups(*keys: np.ndarray) -> list[np.ndarray]:
    """Row numbers that share all keys, each group in ascending order."""
    if not len(keys[0]):
        return []
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)


@dataclass(frozen=True)
class Matches:
    """D poses, the surest first, and what became of each at each of T thresholds."""

    picture: np.ndarray
    """int [D]"""
    category: np.ndarray
    """int [D]: its place among the categories."""
    hit: np.ndarray
    """bool [T, D]: it found an instance."""
    miss: np.ndarray
    """bool [T, D]: it found none. Neither hit nor miss: what it found does not count."""
    instances: np.ndarray
    """int [C, P]: instances to be found of each category in each picture."""
    pairs: np.ndarray
    """int [M, 2]: pose and instance that match at the lowest threshold."""


def match(poses: Poses, truth: Truth, sigmas: Sequence[float], *, pictures: int) -> Matches:
    """Let poses find instances, picture by picture, as COCO does: the surest pose chooses first."""
    categories = np.unique(truth["category_id"])
    counts = _counting(truth)
    rows, pairs = [np.zeros(0, int)], [np.zeros((0, 2), int)]
    hits, misses = ([np.zeros((len(THRESHOLDS), 0), bool)] for _ in range(2))
    for members, wanted in _meetings(poses, truth):
        similar = similarity(poses.image_xy[members], truth, wanted, sigmas)
        found = _assigned(similar, counts[wanted])
        rows.append(members)
        hits.append(np.append(counts[wanted], False)[found])  # -1, none, is the last one
        misses.append(found < 0)
        lenient = found[0]
        pairs.append(np.stack([members, np.append(wanted, -1)[lenient]], 1)[lenient >= 0])
    row = np.concatenate(rows)
    order = np.argsort(-poses.score[row], kind="stable")
    return Matches(
        picture=poses.picture[row][order],
        category=np.searchsorted(categories, poses.category_id[row])[order],
        hit=np.concatenate(hits, 1)[:, order],
        miss=np.concatenate(misses, 1)[:, order],
        instances=_how_many(truth, categories, pictures),
        pairs=np.concatenate(pairs),
    )


def _counting(truth: Truth) -> np.ndarray:
    """An instance without a visible keypoint is not looked for: bool [N]."""
    return np.asarray(truth["visible"].any(axis=1))


def _meetings(poses: Poses, truth: Truth) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Poses and instances of one picture and category: the surest, and those that count, first."""
    counts = _counting(truth)
    there = {
        (int(truth["picture"][rows[0]]), int(truth["category_id"][rows[0]])): rows
        for rows in _groups(truth["picture"], truth["category_id"])
    }
    for members in _groups(poses.picture, poses.category_id):
        key = int(poses.picture[members[0]]), int(poses.category_id[members[0]])
        wanted = there.get(key, np.zeros(0, int))
        surest = np.argsort(-poses.score[members], kind="stable")[:MOST_POSES]
        yield members[surest], wanted[np.argsort(~counts[wanted], kind="stable")]


def _how_many(truth: Truth, categories: np.ndarray, pictures: int) -> np.ndarray:
    counts = _counting(truth)
    instances = np.zeros((len(categories), pictures), int)
    place = np.searchsorted(categories, truth["category_id"][counts])
    np.add.at(instances, (place, truth["picture"][counts]), 1)
    return instances


def _assigned(similar: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Which instance each pose finds at each threshold, -1 for none: int [T, D].

    An instance is found once. A pose prefers the most similar of those that count, and takes one
    that does not count only where none of the others is similar enough.
    """
    poses, instances = similar.shape
    found = np.full((len(THRESHOLDS), poses), -1)
    limits = np.minimum(THRESHOLDS, 1 - 1e-10)
    free = np.ones((len(limits), instances), bool)
    every = np.arange(len(limits))
    for pose in range(poses):
        possible = free & (similar[pose] >= limits[:, None])
        preferred = possible & counts
        possible = np.where(preferred.any(1, keepdims=True), preferred, possible)
        if not possible.any():
            continue
        # Of equals the last one, as COCO walks through them.
        ranked = np.where(possible, similar[pose], -1.0)[:, ::-1]
        best = instances - 1 - ranked.argmax(1)
        takes = possible.any(1)
        found[takes, pose] = best[takes]
        free[every[takes], best[takes]] = False
    return found


def average_precision(
    matches: Matches, times: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """AP and AR at each threshold, float64 [T] each, where picture p counts `times[p]` times.

    A category without an instance in these pictures does not count; NaN where there is none at all.
    """
    weights = np.ones(matches.instances.shape[1]) if times is None else times
    figures = []
    for category, instances in enumerate(matches.instances):
        if total := float(instances @ weights):
            own = matches.category == category
            of = slice(None) if own.all() else own
            figures.append(
                _figures(
                    matches.hit[:, of], matches.miss[:, of], weights[matches.picture[of]], total
                )
            )
    if not figures:
        return np.full(len(THRESHOLDS), np.nan), np.full(len(THRESHOLDS), np.nan)
    precision, recall = np.mean(figures, 0)
    return precision, recall


def _figures(
    hit: np.ndarray, miss: np.ndarray, weights: np.ndarray, total: float
) -> tuple[np.ndarray, np.ndarray]:
    if not hit.shape[1]:
        return np.zeros(len(hit)), np.zeros(len(hit))
    hits, misses = (hit * weights).cumsum(1), (miss * weights).cumsum(1)
    recall, precision = hits / total, hits / (hits + misses + EPS)
    precision = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    precision = np.append(precision, np.zeros((len(hit), 1)), 1)  # beyond the last recall
    at = [np.searchsorted(row, RECALLS, side="left") for row in recall]
    return np.take_along_axis(precision, np.array(at), 1).mean(1), recall[:, -1]

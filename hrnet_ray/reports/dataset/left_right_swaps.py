"""Left and right: pairs of keypoints that look exchanged, told by what the other poses agree on.

No rule says what is right: people face the camera or not, tigers walk both ways. But let d_p lead
from the right to the left keypoint of pair p. To exchange the two is to turn d_p around, and two
measures of a pose turn with it, which no turn, zoom or mirror image of the whole pose changes:

- along another pair, d_p . d_q. Bones from p to q are longer crosswise than straight by just that:
  |l_p - r_q|^2 + |r_p - l_q|^2 = |l_p - l_q|^2 + |r_p - r_q|^2 + 2 d_p . d_q
- across the body, u x d_p, with u from another place on the middle line to the pair's own.
  Exchanging all pairs at once turns these around, and these only.

A logistic regression without a constant finds which sum of these is positive in nearly all poses.
Poses in which it is clearly negative are suspects, not convicts: legs do cross.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hrnet_ray.skeletons import Skeleton

CONFIDENT_LOG_ODDS = 3.0
"""Log-odds for or against a pair's sides, 20 to 1, from which they count as told."""
MIN_POSES = 50
"""A pair that is whole in fewer poses is not judged."""
MAX_POSES = 20_000
"""So many poses, at equal distances, are enough to learn from."""
SHORT_VECTOR_LENGTH = 0.1
"""Of a pose's spread: from here downwards the direction of a vector means less and less."""
MIN_MEASURE_SCALE = 1e-3
"""Measures that are never larger, such as with a pelvis always midway of the hips, say nothing."""
RIDGE_PENALTY = 1.0
NEWTON_STEPS = 12
TRIM_ROUNDS = 6
OUTLIER_LOG_ODDS = 2.0
"""Poses that speak so clearly against the others are left out when these are asked again. At 1,
honest poses are left out too, and the rest agrees on ever more."""
OUTLIER_FRACTION = 0.02
"""Of all poses so many are left out in any case, if they speak against the others at all: a few
exchanged ones among a hundred would keep the rest from agreeing on anything."""
POSES_PER_BLOCK = 4096

CROSSED_CORRELATION = -0.3
"""Correlation of two pairs that a bone joins, from which downwards they look crosswise."""
MAX_DISTANCE_RATIO = 1.6
"""How much farther out one side of a pair may lie, over all poses, than the other."""


@dataclass(frozen=True)
class LeftRightModel:
    """What the poses of a data set agree on, for P pairs: weights of the measures."""

    skeleton: Skeleton
    pair_weights: np.ndarray
    """float64 [P, F]; zeros for a pair that is whole in too few poses."""
    all_pairs_weights: np.ndarray
    """float64 [P]; for the question whether all pairs of a pose are exchanged."""

    @cached_property
    def pairs(self) -> np.ndarray:
        """int64 [P, 2]: left and right keypoint."""
        return get_left_right_pairs(self.skeleton)

    @property
    def is_pair_learned(self) -> np.ndarray:
        """Pairs that can be judged, bool [P]."""
        return np.any(self.pair_weights, axis=1)

    def is_confident(self, log_odds: np.ndarray) -> np.ndarray:
        """Whether log-odds from `exchanged` say clearly which side is which, bool [N, P]."""
        return np.nan_to_num(np.abs(log_odds)) > CONFIDENT_LOG_ODDS

    def format_pair_name(self, pair: int | np.integer) -> str:
        """`left_knee / right_knee`."""
        return " / ".join(self.skeleton.keypoints[k] for k in self.pairs[pair])


def get_left_right_pairs(skeleton: Skeleton) -> np.ndarray:
    """Left and right keypoint of each pair, int64 [P, 2]."""
    pairs = [(k, skeleton.flip_order[k]) for k in skeleton.left_keypoints]
    return np.array(pairs, np.int64).reshape(-1, 2)


def estimate_left_right_model(
    image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton
) -> LeftRightModel:
    """Ask N poses, float64 [N, K, 2] and bool [N, K], how their pairs lie to each other."""
    some = np.unique(np.linspace(0, len(visible) - 1, min(len(visible), MAX_POSES)).astype(int))
    pairs = get_left_right_pairs(skeleton)
    measures, whole = _compute_pair_measures(image_xy[some], visible[some], skeleton)
    weights = np.zeros(measures.shape[1:])
    for pair in range(len(pairs)):
        if whole[:, pair].sum() >= MIN_POSES:
            weights[pair] = _estimate_robust_weights(measures[whole[:, pair], pair])
    enough = len(some) >= MIN_POSES and len(pairs) > 1
    all_weights = (
        _estimate_robust_weights(_sum_across_measures(measures)) if enough else np.zeros(len(pairs))
    )
    return LeftRightModel(skeleton, weights, all_weights)


def detect_swaps(
    left_right_model: LeftRightModel, image_xy: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs that look exchanged in N poses.

    Returns:
        Which pairs, bool [N, P], and the log-odds for each pair as labelled, float64 [N, P]; NaN
        where a pair is not whole, or was not learnt.
    """
    if not len(visible):
        return np.zeros((0, len(left_right_model.pairs)), bool), np.zeros(
            (0, len(left_right_model.pairs))
        )
    found, odds = zip(*_iter_swap_blocks(left_right_model, image_xy, visible), strict=True)
    return np.concatenate(found), np.concatenate(odds)


def _iter_swap_blocks(
    left_right_model: LeftRightModel, image_xy: np.ndarray, visible: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for start in range(0, len(visible), POSES_PER_BLOCK):
        part = slice(start, start + POSES_PER_BLOCK)
        yield _detect_swaps_in_block(left_right_model, image_xy[part].copy(), visible[part])


def _detect_swaps_in_block(
    left_right_model: LeftRightModel, image_xy: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Put the worst pair of each pose right, then ask again: a wrong hip accuses the knee, too."""
    measures, whole = _compute_pair_measures(image_xy, visible, left_right_model.skeleton)
    first = odds = _compute_log_odds(left_right_model, measures, whole)
    turned = (
        _sum_across_measures(measures) @ left_right_model.all_pairs_weights < -CONFIDENT_LOG_ODDS
    )
    found = whole & turned[:, None]
    flip_order = np.array(left_right_model.skeleton.flip_order)
    image_xy[turned] = image_xy[turned][:, flip_order]
    if turned.any():
        odds = _compute_log_odds(
            left_right_model, *_compute_pair_measures(image_xy, visible, left_right_model.skeleton)
        )
    for _ in range(
        len(left_right_model.pairs) // 2
    ):  # the smaller half: which one is wrong none can tell
        worst = np.where(np.isnan(odds) | found, np.inf, odds).argmin(1)
        rows = np.flatnonzero(odds[np.arange(len(odds)), worst] < -CONFIDENT_LOG_ODDS)
        rows = rows[~found[rows, worst[rows]]]
        if not len(rows):
            break
        found[rows, worst[rows]] = True
        left_right = left_right_model.pairs[worst[rows]]
        image_xy[rows[:, None], left_right] = image_xy[rows[:, None], left_right[:, ::-1]]
        odds = _compute_log_odds(
            left_right_model, *_compute_pair_measures(image_xy, visible, left_right_model.skeleton)
        )
    return found, first


def _compute_log_odds(
    left_right_model: LeftRightModel, measures: np.ndarray, is_complete: np.ndarray
) -> np.ndarray:
    odds = np.einsum("npf,pf->np", measures, left_right_model.pair_weights)
    return np.where(is_complete & left_right_model.is_pair_learned, odds, np.nan)


def _compute_pair_measures(
    image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """What turns around when a pair is exchanged, [N, P, F], 0 where unseen; whole pairs [N, P]."""
    pairs = get_left_right_pairs(skeleton)
    middle = [k for k, other in enumerate(skeleton.flip_order) if other == k]
    xy = _normalize_by_spread(image_xy, visible)
    left_xy, right_xy = xy[:, pairs[:, 0]], xy[:, pairs[:, 1]]
    whole = np.all(visible[:, pairs], axis=-1)
    d = np.where(whole[..., None], left_xy - right_xy, 0)
    line_xy = np.concatenate([(left_xy + right_xy) / 2, xy[:, middle]], 1)
    seen = np.concatenate([whole, visible[:, middle]], 1)
    along = np.einsum("npc,nqc->npq", d, _normalize_vectors(d))
    u = _normalize_vectors(line_xy[:, : len(pairs), None] - line_xy[:, None])
    across = u[..., 0] * d[:, :, None, 1] - u[..., 1] * d[:, :, None, 0]
    across = np.where(whole[:, :, None] & seen[:, None], across, 0)
    own = np.arange(len(pairs))
    along[:, own, own] = across[:, own, own] = 0  # with itself: says nothing
    return np.concatenate([along, across], 2), whole


def _sum_across_measures(measures: np.ndarray) -> np.ndarray:
    """What turns around when all pairs are exchanged, [N, P]: across the body; along does not."""
    return measures[..., measures.shape[1] :].sum(-1)


def _normalize_by_spread(image_xy: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Points from their pose's middle, in units of its spread; unlike a box, that is no guess."""
    shown = visible[..., None]
    count = np.maximum(visible.sum(1), 1)[:, None, None]
    from_middle = image_xy - (image_xy * shown).sum(1, keepdims=True) / count
    spread = np.sqrt((from_middle**2 * shown).sum((1, 2), keepdims=True) / count)
    return from_middle / np.maximum(spread, 1e-6)


def _normalize_vectors(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True) + SHORT_VECTOR_LENGTH**2)


def _estimate_robust_weights(measures: np.ndarray) -> np.ndarray:
    """Weights [F] with which the sum of measures [N, F] is positive wherever that can be had."""
    scale = np.maximum(np.sqrt((measures**2).mean(0)), MIN_MEASURE_SCALE)
    scaled = measures / scale
    asked = np.ones(len(scaled), bool)
    weights = np.zeros(scaled.shape[1])
    for _ in range(TRIM_ROUNDS):
        weights = _estimate_logistic_weights(scaled[asked])
        odds = scaled @ weights
        asked = odds > max(-OUTLIER_LOG_ODDS, min(0.0, float(np.quantile(odds, OUTLIER_FRACTION))))
    return weights / scale


def _estimate_logistic_weights(measures: np.ndarray) -> np.ndarray:
    """Newton's steps to the weights under which all N being positive is most likely."""
    weights = np.zeros(measures.shape[1])
    for _ in range(NEWTON_STEPS):
        wrong = 1 / (1 + np.exp(np.clip(measures @ weights, -30, 30)))
        slope = measures.T @ wrong - RIDGE_PENALTY * weights
        curve = (measures * (wrong * (1 - wrong))[:, None]).T @ measures
        weights += np.linalg.solve(curve + RIDGE_PENALTY * np.eye(len(weights)), slope).clip(-5, 5)
    return weights


def check_skeleton_pairs(
    image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton
) -> list[str]:
    """What speaks against the skeleton itself: pairs that lie crosswise or unlike in all poses."""
    pairs = get_left_right_pairs(skeleton)
    whole = np.all(visible[:, pairs], axis=-1)
    xy = _normalize_by_spread(image_xy, visible)
    d = np.where(whole[..., None], xy[:, pairs[:, 0]] - xy[:, pairs[:, 1]], 0)
    dots = np.einsum("npc,nqc->npq", d, d)
    both = (whole[:, :, None] & whole[:, None]).sum(0)
    agree = dots.sum(0) / np.maximum(np.abs(dots).sum(0), 1e-9)
    said = [
        f"{_format_pair(skeleton, p)} lie crosswise to {_format_pair(skeleton, q)}: the names of one pair may "
        "be exchanged throughout"
        for p, q in _find_bone_linked_pairs(skeleton, pairs)
        if both[p, q] >= MIN_POSES and agree[p, q] < CROSSED_CORRELATION
    ]
    out = np.linalg.norm(xy[:, pairs], axis=-1)  # [N, P, 2]
    for p in np.flatnonzero(whole.sum(0) >= MIN_POSES):
        left, right = np.median(out[whole[:, p], p], axis=0)
        if not 1 / MAX_DISTANCE_RATIO < left / max(right, 1e-9) < MAX_DISTANCE_RATIO:
            near, far = pairs[p] if left < right else pairs[p, ::-1]
            said.append(
                f"{skeleton.keypoints[far]} lies much farther out than "
                f"{skeleton.keypoints[near]}: they may be no pair"
            )
    return said


def _format_pair(skeleton: Skeleton, pair: int) -> str:
    left, right = get_left_right_pairs(skeleton)[pair]
    return f"{skeleton.keypoints[left]} and {skeleton.keypoints[right]}"


def _find_bone_linked_pairs(skeleton: Skeleton, pairs: np.ndarray) -> list[tuple[int, int]]:
    """Pairs that a bone of either side joins, each two of them once."""
    place = {name: index for index, name in enumerate(skeleton.keypoints)}
    home = {int(k): pair for pair, both in enumerate(pairs) for k in both}
    ends = ((home.get(place[a]), home.get(place[b])) for a, b in skeleton.bones)
    return sorted(
        {(min(p, q), max(p, q)) for p, q in ends if p is not None and q is not None and p != q}
    )

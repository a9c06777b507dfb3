"""Detect left/right pairs of keypoints that look swapped, compared with all other poses.

People face the camera or not and tigers walk both ways, so image positions alone decide nothing.
Let the vector d_p lead from the right to the left keypoint of pair p. A swap negates d_p, and with
it two measures of a pose that rotation, zoom and mirroring of the whole pose do not change:

- along another pair, d_p . d_q. It is the excess of crossed over straight bones from p to q:
  |l_p - r_q|^2 + |r_p - l_q|^2 = |l_p - l_q|^2 + |r_p - r_q|^2 + 2 d_p . d_q
- across the body, u x d_p, with u from another point of the middle line to the centre of the pair.
  Swapping all pairs at once negates these, and only these.

A logistic regression without intercept finds a weighted sum that is positive in nearly all poses.
A clearly negative sum is reported as a possible swap only, because legs do cross.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hrnet_ray.skeletons import Skeleton

CONFIDENT_LOG_ODDS = 3.0
"""Log-odds (20 to 1) above which the sides of a pair count as decided."""
MIN_POSES = 50
"""Minimum number of poses with both keypoints visible for a pair to be checked."""
MAX_POSES = 20_000
"""Maximum number of poses, at equal distances, for the fit."""
SHORT_VECTOR_LENGTH = 0.1
"""Length, relative to the spread of the pose, below which the direction of a vector counts less."""
MIN_MEASURE_SCALE = 1e-3
"""Smallest scale of a measure; below it (a pelvis always midway between the hips) lies noise."""
RIDGE_PENALTY = 1.0
NEWTON_STEPS = 12
TRIM_ROUNDS = 6
OUTLIER_LOG_ODDS = 2.0
"""Log-odds against a pose above which the next fit omits it. At 1, correct poses are omitted too,
and each fit becomes more confident."""
OUTLIER_FRACTION = 0.02
"""Fraction of the poses that a fit omits in any case if their log-odds are negative: a few swapped
ones among a hundred would otherwise prevent a clear fit."""
POSES_PER_BLOCK = 4096

CROSSED_CORRELATION = -0.3
"""Correlation of two pairs joined by a bone below which they look crossed."""
MAX_DISTANCE_RATIO = 1.6
"""Largest ratio of the distances of the two sides of a pair from the pose centre."""


@dataclass(frozen=True)
class LeftRightModel:
    """Weights of the measures for P left/right pairs, fitted to the poses of a dataset."""

    skeleton: Skeleton
    pair_weights: np.ndarray
    """float64 [P, F]; zeros for a pair that is visible in too few poses."""
    all_pairs_weights: np.ndarray
    """float64 [P]; weights to test whether all pairs of a pose are swapped."""

    @cached_property
    def pairs(self) -> np.ndarray:
        """Left and right keypoint of each pair, int64 [P, 2]."""
        return get_left_right_pairs(self.skeleton)

    @property
    def is_pair_learned(self) -> np.ndarray:
        """Pairs that can be checked, bool [P]."""
        return np.any(self.pair_weights, axis=1)

    def is_confident(self, log_odds: np.ndarray) -> np.ndarray:
        """Whether log-odds of `detect_swaps` decide the sides of a pair, bool [N, P]."""
        return np.nan_to_num(np.abs(log_odds)) > CONFIDENT_LOG_ODDS

    def format_pair_name(self, pair: int | np.integer) -> str:
        """Format a pair: `left_knee / right_knee`."""
        return " / ".join(self.skeleton.keypoints[k] for k in self.pairs[pair])


def get_left_right_pairs(skeleton: Skeleton) -> np.ndarray:
    """Left and right keypoint of each pair, int64 [P, 2]."""
    pairs = [(k, skeleton.flip_order[k]) for k in skeleton.left_keypoints]
    return np.array(pairs, np.int64).reshape(-1, 2)


def estimate_left_right_model(image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton) -> LeftRightModel:
    """Fit the model to N poses, float64 [N, K, 2] and bool [N, K]."""
    subset = np.unique(np.linspace(0, len(visible) - 1, min(len(visible), MAX_POSES)).astype(int))
    pairs = get_left_right_pairs(skeleton)
    measures, is_complete = _compute_pair_measures(image_xy[subset], visible[subset], skeleton)
    weights = np.zeros(measures.shape[1:])
    for pair in range(len(pairs)):
        if is_complete[:, pair].sum() >= MIN_POSES:
            weights[pair] = _estimate_robust_weights(measures[is_complete[:, pair], pair])
    enough = len(subset) >= MIN_POSES and len(pairs) > 1
    all_weights = _estimate_robust_weights(_sum_across_measures(measures)) if enough else np.zeros(len(pairs))
    return LeftRightModel(skeleton, weights, all_weights)


def detect_swaps(
    left_right_model: LeftRightModel, image_xy: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find pairs that look swapped in N poses.

    Returns:
        Swapped pairs, bool [N, P], and the log-odds of each pair as labelled, float64 [N, P]; NaN
        for a pair that is not completely visible or was not learned.
    """
    if not len(visible):
        shape = (0, len(left_right_model.pairs))
        return np.zeros(shape, bool), np.zeros(shape)
    starts = range(0, len(visible), POSES_PER_BLOCK)
    blocks = [slice(start, start + POSES_PER_BLOCK) for start in starts]
    swapped, log_odds = zip(
        *(_detect_swaps_in_block(left_right_model, image_xy[b].copy(), visible[b]) for b in blocks),
        strict=True,
    )
    return np.concatenate(swapped), np.concatenate(log_odds)


def _detect_swaps_in_block(
    left_right_model: LeftRightModel, image_xy: np.ndarray, visible: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Correct the worst pair of each pose, then repeat: a swapped hip affects the knee too."""
    skeleton, pairs = left_right_model.skeleton, left_right_model.pairs
    measures, is_complete = _compute_pair_measures(image_xy, visible, skeleton)
    odds_as_labelled = odds = _compute_log_odds(left_right_model, measures, is_complete)
    all_pairs_odds = _sum_across_measures(measures) @ left_right_model.all_pairs_weights
    is_mirrored = all_pairs_odds < -CONFIDENT_LOG_ODDS
    is_swapped = is_complete & is_mirrored[:, None]
    if is_mirrored.any():
        image_xy[is_mirrored] = image_xy[is_mirrored][:, np.array(skeleton.flip_order)]
        measures = _compute_pair_measures(image_xy, visible, skeleton)
        odds = _compute_log_odds(left_right_model, *measures)
    # At most half of the pairs: beyond that, swapped and correct pairs look alike.
    for _ in range(len(pairs) // 2):
        worst = np.where(np.isnan(odds) | is_swapped, np.inf, odds).argmin(1)
        rows = np.flatnonzero(odds[np.arange(len(odds)), worst] < -CONFIDENT_LOG_ODDS)
        rows = rows[~is_swapped[rows, worst[rows]]]
        if not len(rows):
            break
        is_swapped[rows, worst[rows]] = True
        left_right = pairs[worst[rows]]
        image_xy[rows[:, None], left_right] = image_xy[rows[:, None], left_right[:, ::-1]]
        measures = _compute_pair_measures(image_xy, visible, skeleton)
        odds = _compute_log_odds(left_right_model, *measures)
    return is_swapped, odds_as_labelled


def _compute_log_odds(left_right_model: LeftRightModel, measures: np.ndarray, is_complete: np.ndarray) -> np.ndarray:
    odds = np.einsum("npf,pf->np", measures, left_right_model.pair_weights)
    return np.where(is_complete & left_right_model.is_pair_learned, odds, np.nan)


def _compute_pair_measures(
    image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Compute the measures that a swap negates, [N, P, F], and which pairs are complete, [N, P]."""
    pairs = get_left_right_pairs(skeleton)
    middle = [k for k, other in enumerate(skeleton.flip_order) if other == k]
    xy = _normalize_by_spread(image_xy, visible)
    left_xy, right_xy = xy[:, pairs[:, 0]], xy[:, pairs[:, 1]]
    is_complete = np.all(visible[:, pairs], axis=-1)
    d = np.where(is_complete[..., None], left_xy - right_xy, 0)
    line_xy = np.concatenate([(left_xy + right_xy) / 2, xy[:, middle]], 1)
    is_visible = np.concatenate([is_complete, visible[:, middle]], 1)
    along = np.einsum("npc,nqc->npq", d, _normalize_vectors(d))
    u = _normalize_vectors(line_xy[:, : len(pairs), None] - line_xy[:, None])
    across = u[..., 0] * d[:, :, None, 1] - u[..., 1] * d[:, :, None, 0]
    across = np.where(is_complete[:, :, None] & is_visible[:, None], across, 0)
    own = np.arange(len(pairs))
    along[:, own, own] = across[:, own, own] = 0  # a pair with itself carries no information
    return np.concatenate([along, across], 2), is_complete


def _sum_across_measures(measures: np.ndarray) -> np.ndarray:
    """Sum the measures across the body, [N, P]: only these are negated if all pairs are swapped."""
    return measures[..., measures.shape[1] :].sum(-1)


def _normalize_by_spread(image_xy: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Centre each pose on its visible keypoints and divide it by their spread (not by its box)."""
    shown = visible[..., None]
    count = np.maximum(visible.sum(1), 1)[:, None, None]
    from_middle = image_xy - (image_xy * shown).sum(1, keepdims=True) / count
    spread = np.sqrt((from_middle**2 * shown).sum((1, 2), keepdims=True) / count)
    return from_middle / np.maximum(spread, 1e-6)


def _normalize_vectors(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt((vectors**2).sum(-1, keepdims=True) + SHORT_VECTOR_LENGTH**2)


def _estimate_robust_weights(measures: np.ndarray) -> np.ndarray:
    """Fit weights [F] for a positive sum of measures [N, F], with outliers trimmed."""
    scale = np.maximum(np.sqrt((measures**2).mean(0)), MIN_MEASURE_SCALE)
    scaled = measures / scale
    is_used = np.ones(len(scaled), bool)
    weights = np.zeros(scaled.shape[1])
    for _ in range(TRIM_ROUNDS):
        weights = _estimate_logistic_weights(scaled[is_used])
        odds = scaled @ weights
        is_used = odds > max(-OUTLIER_LOG_ODDS, min(0.0, float(np.quantile(odds, OUTLIER_FRACTION))))
    return weights / scale


def _estimate_logistic_weights(measures: np.ndarray) -> np.ndarray:
    """Maximize by Newton steps the likelihood that all N sums are positive."""
    weights = np.zeros(measures.shape[1])
    for _ in range(NEWTON_STEPS):
        residual = 1 / (1 + np.exp(np.clip(measures @ weights, -30, 30)))
        gradient = measures.T @ residual - RIDGE_PENALTY * weights
        hessian = (measures * (residual * (1 - residual))[:, None]).T @ measures
        hessian += RIDGE_PENALTY * np.eye(len(weights))
        weights += np.linalg.solve(hessian, gradient).clip(-5, 5)
    return weights


def check_skeleton_pairs(image_xy: np.ndarray, visible: np.ndarray, skeleton: Skeleton) -> list[str]:
    """Find doubts about the skeleton itself: pairs that are crossed or asymmetric in all poses."""
    pairs = get_left_right_pairs(skeleton)
    is_complete = np.all(visible[:, pairs], axis=-1)
    xy = _normalize_by_spread(image_xy, visible)
    d = np.where(is_complete[..., None], xy[:, pairs[:, 0]] - xy[:, pairs[:, 1]], 0)
    dots = np.einsum("npc,nqc->npq", d, d)
    num_common = (is_complete[:, :, None] & is_complete[:, None]).sum(0)
    correlation = dots.sum(0) / np.maximum(np.abs(dots).sum(0), 1e-9)
    warnings = [
        f"{_format_pair(skeleton, p)} are crossed with {_format_pair(skeleton, q)}: "
        "the names of one pair may be swapped in all poses"
        for p, q in _find_bone_linked_pairs(skeleton, pairs)
        if num_common[p, q] >= MIN_POSES and correlation[p, q] < CROSSED_CORRELATION
    ]
    distance = np.linalg.norm(xy[:, pairs], axis=-1)  # [N, P, 2], from the pose centre
    for p in np.flatnonzero(is_complete.sum(0) >= MIN_POSES):
        left, right = np.median(distance[is_complete[:, p], p], axis=0)
        if not 1 / MAX_DISTANCE_RATIO < left / max(right, 1e-9) < MAX_DISTANCE_RATIO:
            near, far = pairs[p] if left < right else pairs[p, ::-1]
            warnings.append(
                f"{skeleton.keypoints[far]} is much farther from the pose centre than "
                f"{skeleton.keypoints[near]}: they may not be a pair"
            )
    return warnings


def _format_pair(skeleton: Skeleton, pair: int) -> str:
    left, right = get_left_right_pairs(skeleton)[pair]
    return f"{skeleton.keypoints[left]} and {skeleton.keypoints[right]}"


def _find_bone_linked_pairs(skeleton: Skeleton, pairs: np.ndarray) -> list[tuple[int, int]]:
    """Find two pairs that a bone of either side joins, each combination once."""
    index = {name: k for k, name in enumerate(skeleton.keypoints)}
    pair_of = {int(k): pair for pair, left_right in enumerate(pairs) for k in left_right}
    ends = ((pair_of.get(index[a]), pair_of.get(index[b])) for a, b in skeleton.bones)
    return sorted({(min(p, q), max(p, q)) for p, q in ends if p is not None and q is not None and p != q})

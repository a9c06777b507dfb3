"""Everything that an evaluation says about poses, from one pass over them.

`learning.scores` says what a training needs after an epoch; here is what a paper prints, by the
same sums: the published table, every set of sigmas, each keypoint, and what an interval needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from hrnet_ray.metrics.bootstrap import Statistic, of_ratio, per_picture
from hrnet_ray.metrics.keypoint_metrics import (
    PCKh,
    auc,
    error_in_heads,
    oks_summary,
    pckh,
    pckh_curve,
)
from hrnet_ray.metrics.matched_pairs import KeypointScore, Pairs
from hrnet_ray.metrics.oks import (
    NMS_OKS,
    THRESHOLDS,
    Poses,
    Truth,
    average_precision,
    match,
    similarity,
    survivors,
)
from hrnet_ray.metrics.pckh_table import published_table
from hrnet_ray.metrics.validation import PCKH_THRESHOLDS, coco_truth, main_metric
from hrnet_ray.skeletons import DEFAULT_OKS_SIGMA, Skeleton


@dataclass(frozen=True, kw_only=True)
class Assessment:
    """What was found, and all that is said about it. N instances, D poses."""

    main: str
    summary: dict[str, float]
    published: dict[str, float] | None
    """The table of MPII papers, in percent."""
    oks: dict[str, dict[str, float]]
    """COCO's ten figures by the name of the sigmas."""
    per_keypoint: dict[str, KeypointScore]
    curve: list[tuple[float, float]]
    """PCKh at each threshold, or AP at each OKS."""
    statistic: Statistic
    """The main figure of a set in which pictures count several times, or not at all."""
    per_instance: np.ndarray
    """float64 [N]: PCKh or OKS; NaN where it cannot be measured."""
    rank: np.ndarray
    """int [K]: the instances that can be measured, the worst first."""
    nearest_xy: np.ndarray
    """float64 [N, K, 2]: the pose that each instance is compared with; NaN where there is none."""
    poses: Poses
    """Those that the main figure is made of: for OKS, without what OKS-NMS took for repeated."""
    dropped: int
    """Poses that OKS-NMS took for repeated."""

    @property
    def value(self) -> float:
        return self.summary[self.main]


def assess(
    poses: Poses,
    truth: Truth,
    skeleton: Skeleton,
    *,
    pictures: int,
    true_boxes: bool,
    nms_oks: float = NMS_OKS,
) -> Assessment:
    """Score poses; with `true_boxes`, pose n was looked for in the box of instance n.

    Figures that need a pose for each instance (PCK, EPE, per keypoint) take, with a detector's
    boxes, the pairs that match at OKS 0.5. PCKh has no meaning there: OKS decides.
    """
    if true_boxes and main_metric(truth) == "PCKh_0.5":
        return _of_people(poses, truth, skeleton, pictures)
    stays = survivors(poses, skeleton.scoring_sigmas, most=nms_oks)
    kept = poses.take(stays)
    matches = match(kept, truth, skeleton.scoring_sigmas, pictures=pictures)
    oks = _oks_figures(kept, truth, skeleton)
    summary = _flat(oks)
    if true_boxes:
        everything = np.arange(len(poses))
        compared, nearest = Pairs.of(poses, truth, everything, everything), everything
        all_of_them = oks if stays.all() else _oks_figures(poses, truth, skeleton)
        summary["OKS_AP_without_nms"] = _flat(all_of_them)["OKS_AP"]  # what a training reports
    else:
        compared = Pairs.of(kept, truth, *matches.pairs.T)
        nearest = _nearest(kept, truth, skeleton)
        summary["instances_matched"] = float(len(matches.pairs))
    nearest_xy = _xy_of(poses if true_boxes else kept, nearest)
    alike = _instance_oks(nearest_xy, truth, skeleton)
    return Assessment(
        main="OKS_AP",
        summary=summary | compared.in_boxes() | {"EPE_px": compared.epe_px()},
        published=None,
        oks=oks,
        per_keypoint=compared.keypoints(skeleton, compared.oks(skeleton)),
        curve=list(zip(THRESHOLDS.tolist(), average_precision(matches)[0].tolist(), strict=True)),
        statistic=lambda times: float(average_precision(matches, times)[0].mean()),
        per_instance=alike,
        rank=np.argsort(alike, kind="stable")[: int(np.isfinite(alike).sum())],
        nearest_xy=nearest_xy,
        poses=kept,
        dropped=int((~stays).sum()),
    )


def names_of_sigmas(skeleton: Skeleton) -> dict[str, tuple[float, ...]]:
    """Every set of OKS sigmas by its name; the first one decides."""
    own = "own" if skeleton.oks_sigmas else f"all_{DEFAULT_OKS_SIGMA:g}"
    return {own: skeleton.scoring_sigmas, **skeleton.other_oks_sigmas}


def results_of(poses: Poses) -> list[dict[str, Any]]:
    """Poses in COCO's results form."""
    points = np.concatenate([poses.image_xy, poses.heights[..., None]], -1)
    flat = points.reshape(len(poses), points.shape[1] * 3)
    columns = (poses.image_id, poses.category_id, flat, poses.score)
    lists = [column.tolist() for column in columns]
    names = ("image_id", "category_id", "keypoints", "score")
    return [dict(zip(names, pose, strict=True)) for pose in zip(*lists, strict=True)]


def _oks_figures(poses: Poses, truth: Truth, skeleton: Skeleton) -> dict[str, dict[str, float]]:
    document = coco_truth({**truth, "image_id": truth["picture"]})
    results = results_of(replace(poses, image_id=poses.picture))
    return {
        name: oks_summary(document, results, sigmas=sigmas)
        for name, sigmas in names_of_sigmas(skeleton).items()
    }


def _flat(oks: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The first set as OKS_AP, OKS_AP50...; AP and AR of the others with their name behind."""
    flat: dict[str, float] = {}
    for at, (name, figures) in enumerate(oks.items()):
        for figure, value in figures.items():
            if at == 0:
                flat[f"OKS_{figure}"] = value
            elif figure in ("AP", "AR"):
                flat[f"OKS_{figure}_{name}"] = value
    return flat


def _of_people(poses: Poses, truth: Truth, skeleton: Skeleton, pictures: int) -> Assessment:
    """PCKh decides; rows without a head are counted, not scored."""
    everything = np.arange(len(poses))
    pairs = Pairs.of(poses, truth, everything, everything)
    measured = torch.from_numpy(np.isfinite(truth["head_size"]))
    head = torch.from_numpy(np.nan_to_num(truth["head_size"], nan=1.0))
    compared = (pairs.predicted, pairs.true_xy, pairs.visible & measured[:, None], head)
    parts = {name: pckh(*compared, threshold=t) for name, t in PCKH_THRESHOLDS.items()}
    half, curve = parts["PCKh_0.5"], pckh_curve(*compared)
    hits, seen, error = _by_instance(half, *compared)
    with np.errstate(invalid="ignore"):
        share = hits / seen
    oks = _oks_figures(poses, truth, skeleton) if skeleton.oks_sigmas else {}
    return Assessment(
        main="PCKh_0.5",
        summary={
            **{name: part.mean() for name, part in parts.items()},
            "PCKh_AUC": auc(curve),
            **_flat(oks),
            **pairs.in_boxes(),
            "EPE_px": pairs.epe_px(),
            "rows_without_head": float((~measured).sum()),
        },
        published=published_table(half, parts["PCKh_0.11_legacy"], skeleton),
        oks=oks,
        per_keypoint=pairs.keypoints(skeleton, half.per_keypoint()),
        curve=[(part.threshold, part.mean()) for part in curve],
        statistic=of_ratio(
            per_picture(hits, truth["picture"], pictures=pictures),
            per_picture(seen, truth["picture"], pictures=pictures),
        ),
        per_instance=share,
        rank=np.lexsort((-error, share))[: int(np.isfinite(share).sum())],
        nearest_xy=poses.image_xy,
        poses=poses,
        dropped=0,
    )


def _by_instance(
    score: PCKh,
    predicted: torch.Tensor,
    true_xy: torch.Tensor,
    visible: torch.Tensor,
    head: torch.Tensor,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keypoints of the mean that are within the threshold, all of them, and their summed error.

    float64 [N] each; the first two are what `score` adds up.
    """
    counted = visible.clone()
    counted[:, list(score.left_out)] = False
    error = error_in_heads(predicted, true_xy, head)
    near = (error <= score.threshold) & counted
    sums = (near.double(), counted.double(), torch.where(counted, error, 0.0))
    hits, seen, errors = (part.sum(1).numpy() for part in sums)
    return hits, seen, errors


def _nearest(poses: Poses, truth: Truth, skeleton: Skeleton) -> np.ndarray:
    """The pose of its picture and kind that is most like each instance, -1 for none: int [N]."""
    order = np.argsort(poses.picture, kind="stable")
    starts = np.searchsorted(poses.picture[order], truth["picture"])
    ends = np.searchsorted(poses.picture[order], truth["picture"], side="right")
    nearest = np.full(len(truth["id"]), -1)
    for row, (start, end) in enumerate(zip(starts, ends, strict=True)):
        there = order[start:end]
        there = there[poses.category_id[there] == truth["category_id"][row]]
        if len(there):
            one = np.array([row])
            alike = similarity(poses.image_xy[there], truth, one, skeleton.scoring_sigmas)
            nearest[row] = there[alike.argmax()]
    return nearest


def _xy_of(poses: Poses, which: np.ndarray) -> np.ndarray:
    """Keypoints of some poses, NaN for the number -1: float64 [N, K, 2]."""
    nothing = np.full((1, *poses.image_xy.shape[1:]), np.nan)
    return np.append(poses.image_xy, nothing, 0)[which]  # -1 is the last one


def _instance_oks(nearest_xy: np.ndarray, truth: Truth, skeleton: Skeleton) -> np.ndarray:
    """OKS of each instance with its pose, 0 without one; NaN without a visible keypoint."""
    alike = [
        similarity(xy[None], truth, np.array([row]), skeleton.scoring_sigmas).item()
        for row, xy in enumerate(nearest_xy)
    ]
    measured = truth["visible"].any(axis=1)
    return np.where(measured, np.nan_to_num(np.array(alike), nan=0.0), np.nan)

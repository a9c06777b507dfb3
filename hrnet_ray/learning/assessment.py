"""Everything that an evaluation says about poses, from one pass over them.

`learning.scores` says what a training needs after an epoch; here is what a paper prints, by the
same sums: the published table, every set of sigmas, each keypoint, and what an interval needs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from hrnet_ray.learning.bootstrap import Statistic, of_ratio, per_picture
from hrnet_ray.learning.oks import (
    NMS_OKS,
    THRESHOLDS,
    Matches,
    Poses,
    average_precision,
    match,
    similarity,
    survivors,
)
from hrnet_ray.learning.pckh_table import published_table
from hrnet_ray.learning.scores import PCKH_THRESHOLDS, coco_truth, main_metric
from hrnet_ray.pose.metrics import (
    auc,
    epe,
    error_in_heads,
    oks_per_keypoint,
    oks_summary,
    pckh,
    pckh_curve,
)
from hrnet_ray.skeletons import DEFAULT_OKS_SIGMA, Skeleton

Truth = Mapping[str, np.ndarray]
"""The label columns (`data.rows.labels_of`), and `picture`: int64 [N], the place of its picture."""

PCK_THRESHOLDS = (0.05, 0.2)
PCK_CURVE = tuple(step / 100 for step in range(21))
"""PCK measures by the longer side of the true box: for animals, which have no head size."""


@dataclass(frozen=True)
class KeypointScore:
    """How well one keypoint is found."""

    value: float
    """PCKh at 0.5, or OKS."""
    epe_px: float
    count: int
    """Visible ones that were compared."""


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
    stays = survivors(poses, skeleton.scoring_sigmas, most=nms_oks)
    kept = poses.take(stays)
    matches = match(kept, truth, skeleton.scoring_sigmas, pictures=pictures)
    everything = np.arange(len(truth["id"]))
    if true_boxes:
        of_pair, pose_of = poses, everything
        pairs = np.stack([everything, everything], 1)
    else:
        of_pair, pose_of = kept, _nearest(kept, truth, skeleton)
        pairs = matches.pairs
    compared = _Pairs.of(of_pair, truth, pairs)
    main = main_metric(truth) if true_boxes else "OKS_AP"
    nearest_xy = np.append(of_pair.image_xy, np.full((1, *truth["image_xy"].shape[1:]), np.nan), 0)
    common: dict[str, Any] = {"main": main, "dropped": int((~stays).sum())}
    common["nearest_xy"] = nearest_xy[pose_of]  # -1 is the last one
    common["poses"] = kept if main == "OKS_AP" else poses
    scored = partial(_oks_figures, truth=truth, skeleton=skeleton)
    if main == "PCKh_0.5":
        oks = scored(kept) if skeleton.oks_sigmas else {}
        return Assessment(**common, **_by_head(compared, truth, skeleton, pictures, oks))
    oks = scored(kept)
    summary = _flat(oks)
    if true_boxes:  # what a training reports
        own = next(iter(oks))
        summary["OKS_AP_without_nms"] = oks[own]["AP"] if stays.all() else scored(poses)[own]["AP"]
    else:
        summary["instances_matched"] = float(len(pairs))
    alike = _instance_oks(of_pair, truth, skeleton, pose_of)
    return Assessment(
        **common,
        summary=summary | _in_boxes(compared) | {"EPE_px": compared.epe_px()},
        published=None,
        oks=oks,
        per_keypoint=compared.keypoints(skeleton, compared.oks(skeleton)),
        curve=list(zip(THRESHOLDS.tolist(), average_precision(matches)[0].tolist(), strict=True)),
        statistic=_ap_of(matches),
        per_instance=alike,
        rank=np.argsort(alike, kind="stable")[: int(np.isfinite(alike).sum())],
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


def _ap_of(matches: Matches) -> Statistic:
    return lambda times: float(average_precision(matches, times)[0].mean())


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


@dataclass(frozen=True)
class _Pairs:
    """M poses beside the instances that they are compared with."""

    predicted: torch.Tensor
    true_xy: torch.Tensor
    visible: torch.Tensor
    area: torch.Tensor
    box_side: torch.Tensor

    @classmethod
    def of(cls, poses: Poses, truth: Truth, pairs: np.ndarray) -> "_Pairs":
        pose, instance = pairs.T
        return cls(
            torch.from_numpy(poses.image_xy[pose]),
            torch.from_numpy(truth["image_xy"][instance]),
            torch.from_numpy(truth["visible"][instance]),
            torch.from_numpy(truth["area"][instance]).clamp(min=1.0),
            torch.from_numpy(truth["box_xywh"][instance, 2:].max(-1)).clamp(min=1.0),
        )

    def epe_px(self) -> float:
        return epe(self.predicted, self.true_xy, self.visible).mean()

    def oks(self, skeleton: Skeleton) -> torch.Tensor:
        sigmas = skeleton.scoring_sigmas
        return oks_per_keypoint(
            self.predicted, self.true_xy, self.visible, self.area, sigmas=sigmas
        ).per_keypoint()

    def keypoints(self, skeleton: Skeleton, values: torch.Tensor) -> dict[str, KeypointScore]:
        error = epe(self.predicted, self.true_xy, self.visible)
        columns = (values, error.per_keypoint(), error.seen)
        scores = zip(*(column.tolist() for column in columns), strict=True)
        return {
            name: KeypointScore(value, px, int(count))
            for name, (value, px, count) in zip(skeleton.keypoints, scores, strict=True)
        }


def _in_boxes(pairs: _Pairs) -> dict[str, float]:
    """PCK by the longer side of the box: its share at two thresholds, and the area up to 0.2."""
    poses = (pairs.predicted, pairs.true_xy, pairs.visible, pairs.box_side)
    curve = pckh_curve(*poses, thresholds=PCK_CURVE, left_out=())
    shares = {f"PCK_{t:g}": curve[round(100 * t)].mean() for t in PCK_THRESHOLDS}
    return {**shares, "PCK_AUC_0.2": auc(curve)}


def _by_head(
    pairs: _Pairs,
    truth: Truth,
    skeleton: Skeleton,
    pictures: int,
    oks: dict[str, dict[str, float]],
) -> dict[str, Any]:
    """The figures of people with measured heads; rows without a head are counted, not scored."""
    measured = torch.from_numpy(np.isfinite(truth["head_size"]))
    head = torch.from_numpy(np.nan_to_num(truth["head_size"], nan=1.0))
    visible = pairs.visible & measured[:, None]
    poses = (pairs.predicted, pairs.true_xy, visible, head)
    parts = {name: pckh(*poses, threshold=t) for name, t in PCKH_THRESHOLDS.items()}
    half, curve = parts["PCKh_0.5"], pckh_curve(*poses)
    error = error_in_heads(pairs.predicted, pairs.true_xy, head)
    in_mean = visible.clone()
    in_mean[:, list(half.left_out)] = False
    seen = in_mean.sum(1).double().numpy()
    hits = ((error <= half.threshold) & in_mean).sum(1).double().numpy()
    with np.errstate(invalid="ignore"):
        share = hits / seen
        mean_error = torch.where(in_mean, error, 0.0).sum(1).numpy() / seen
    return {
        "summary": {
            **{name: part.mean() for name, part in parts.items()},
            "PCKh_AUC": auc(curve),
            **_flat(oks),
            **_in_boxes(pairs),
            "EPE_px": pairs.epe_px(),
            "rows_without_head": float((~measured).sum()),
        },
        "published": published_table(half, parts["PCKh_0.11_legacy"], skeleton),
        "oks": oks,
        "per_keypoint": pairs.keypoints(skeleton, half.per_keypoint()),
        "curve": [(part.threshold, part.mean()) for part in curve],
        "statistic": of_ratio(
            per_picture(hits, truth["picture"], pictures=pictures),
            per_picture(seen, truth["picture"], pictures=pictures),
        ),
        "per_instance": share,
        "rank": np.lexsort((-mean_error, share))[: int(np.isfinite(share).sum())],
    }


def _instance_oks(
    poses: Poses, truth: Truth, skeleton: Skeleton, pose_of: np.ndarray
) -> np.ndarray:
    """OKS of each instance with its pose, 0 without one; NaN without a visible keypoint."""
    alike = np.zeros(len(pose_of))
    for at, pose in enumerate(pose_of):
        if not truth["visible"][at].any():
            alike[at] = np.nan
        elif pose >= 0:
            alike[at] = _similar(poses, np.array([pose]), truth, at, skeleton)[0]
    return alike


def _nearest(poses: Poses, truth: Truth, skeleton: Skeleton) -> np.ndarray:
    """The pose of its picture that is most like each instance, -1 where there is none: int [N]."""
    order = np.argsort(poses.picture, kind="stable")
    starts = np.searchsorted(poses.picture[order], truth["picture"])
    ends = np.searchsorted(poses.picture[order], truth["picture"], side="right")
    nearest = np.full(len(truth["id"]), -1)
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if end > start:
            there = order[start:end]
            nearest[at] = there[_similar(poses, there, truth, at, skeleton).argmax()]
    return nearest


def _similar(
    poses: Poses, which: np.ndarray, truth: Truth, at: int, skeleton: Skeleton
) -> np.ndarray:
    one = (truth[name][at : at + 1] for name in ("image_xy", "visible", "area", "box_xywh"))
    return similarity(poses.image_xy[which], *one, skeleton.scoring_sigmas)[:, 0]

"""How good is a pose? PCKh for people, OKS for animals, and the distance for everyone.

A metric is a sum that is divided once, at the end. Sums from several workers simply add, so a
distributed score equals the score of one worker that saw everything. Shapes: N instances, K
keypoints; points in image pixels, and compared in float64.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

MPII_KEYPOINTS = 16
MPII_LEFT_OUT = (6, 7)  # pelvis and thorax: in the published table, but not in its mean
COCO_FIGURES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

Score = TypeVar("Score", bound="KeypointMean")


@dataclass(frozen=True)
class KeypointMean:
    """A mean over visible keypoints, kept as its two sums."""

    total: Float[Tensor, " K"]
    seen: Float[Tensor, " K"]
    left_out: tuple[int, ...] = ()
    """Keypoints that `mean` passes over."""

    def __add__(self: Score, other: Score) -> Score:
        if self._definition() != other._definition():
            raise ValueError(f"these don't add up: {self._definition()} and {other._definition()}")
        return type(self)(self.total + other.total, self.seen + other.seen, *self._definition())

    def __radd__(self: Score, start: int) -> Score:
        """So that `sum`, which starts from 0, adds scores up."""
        if start != 0:
            raise TypeError(f"{start} and a score don't add up")
        return self

    def per_keypoint(self) -> Float[Tensor, " K"]:
        """The mean of each keypoint; NaN where it was never visible."""
        return self.total / self.seen

    def mean(self) -> float:
        """The mean over all visible keypoints but those `left_out`; NaN when there was none.

        A keypoint that is seen more often counts for more (a micro average).
        """
        kept = [keypoint for keypoint in range(len(self.seen)) if keypoint not in self.left_out]
        return (self.total[kept].sum() / self.seen[kept].sum()).item()

    def _definition(self) -> tuple[Any, ...]:
        """What two scores must share to be added."""
        return (self.left_out,)


@dataclass(frozen=True)
class PCKh(KeypointMean):
    """Share of visible keypoints that lie within `threshold` head sizes of the truth, 0 to 1."""

    threshold: float = 0.5

    def _definition(self) -> tuple[Any, ...]:
        return (self.left_out, self.threshold)


def pckh(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    head_size: Float[Tensor, " N"],
    *,
    threshold: float | int = 0.5,
    left_out: Sequence[int] | None = None,
) -> PCKh:
    """Count the keypoints within `threshold` head sizes (the rim included) of the truth.

    For MPII `head_size` is 0.6 times the diagonal of the head box; with another length it is a
    plain PCK. `left_out` keypoints don't count in the mean. Unless told, these are pelvis and
    thorax (6 and 7) of a pose of 16 keypoints, as in the published MPII evaluation, and none of any
    other pose.
    """
    if left_out is None:
        left_out = MPII_LEFT_OUT if predicted_xy.shape[1] == MPII_KEYPOINTS else ()
    error = error_in_heads(predicted_xy, true_xy, head_size)
    total, seen = _sums((error <= threshold).double(), visible)
    return PCKh(total, seen, tuple(left_out), float(threshold))


def error_in_heads(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    head_size: Float[Tensor, " N"],
) -> Float[Tensor, "N K"]:
    """The distance to the truth in head sizes (or in whatever else a PCK measures by)."""
    return _distance(predicted_xy, true_xy) / _exact(head_size)[:, None]


def pckh_curve(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    head_size: Float[Tensor, " N"],
    *,
    thresholds: Sequence[float] = tuple(step / 100 for step in range(51)),
    left_out: Sequence[int] | None = None,
) -> tuple[PCKh, ...]:
    """PCKh at each threshold: what a curve shows, and `auc` sums up."""
    return tuple(
        pckh(predicted_xy, true_xy, visible, head_size, threshold=threshold, left_out=left_out)
        for threshold in thresholds
    )


def auc(curve: Sequence[PCKh]) -> float:
    """The area under a PCKh curve (trapezoids) as a share of the whole, from 0 to 1."""
    means = torch.tensor([score.mean() for score in curve], dtype=torch.float64)
    thresholds = torch.tensor([score.threshold for score in curve], dtype=torch.float64)
    return (torch.trapezoid(means, thresholds) / (thresholds[-1] - thresholds[0])).item()


def epe(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
) -> KeypointMean:
    """End-point error: the distance to the truth, in the pixels of the points given."""
    return KeypointMean(*_sums(_distance(predicted_xy, true_xy), visible))


def oks_per_keypoint(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    area: Float[Tensor, " N"],
    *,
    sigmas: Sequence[float],
) -> KeypointMean:
    """Object keypoint similarity (0 to 1) of each keypoint: which ones cost the most AP.

    `area` is the instance's, in square pixels. COCO averages these over an instance, here over
    instances.
    """
    _check_sigmas(sigmas, predicted_xy.shape[1])
    reach = 2 * torch.tensor(sigmas, dtype=torch.float64) * _exact(area).sqrt()[:, None]
    similarity = torch.exp(-(_distance(predicted_xy, true_xy) / reach).square() / 2)
    return KeypointMean(*_sums(similarity, visible))


def oks_summary(
    ground_truth: dict[str, Any] | str | PathLike[str],
    results: Sequence[dict[str, Any]] | str | PathLike[str],
    *,
    sigmas: Sequence[float],
) -> dict[str, float]:
    """The ten COCO keypoint figures: AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL.

    Args:
        ground_truth: COCO annotations, or the path of their JSON. Neither argument is changed.
        results: COCO results (image_id, category_id, keypoints, score), or the path of their JSON.
        sigmas: one per keypoint.

    A figure of -1 means that there is no instance of that kind: ATRW has none of medium size (APM).
    Raises ValueError where the keypoints don't match the sigmas, or a result names an unknown
    image.
    """
    figures = _evaluated(ground_truth, results, sigmas).stats
    return dict(zip(COCO_FIGURES, map(float, figures), strict=True))


def oks_curve(
    ground_truth: dict[str, Any] | str | PathLike[str],
    results: Sequence[dict[str, Any]] | str | PathLike[str],
    *,
    sigmas: Sequence[float],
) -> list[tuple[float, float]]:
    """The ten parts of `oks_summary`'s AP: each OKS that a pose must reach, and AP there.

    AP is -1 where there is no instance. Raises ValueError as `oks_summary` does.
    """
    evaluation = _evaluated(ground_truth, results, sigmas)
    # Thresholds, recalls, categories, areas, most poses; the first area is any.
    precision = evaluation.eval["precision"][..., 0, -1]
    there = [part[part > -1] for part in precision]
    values = [float(part.mean()) if part.size else -1.0 for part in there]
    return list(zip(evaluation.params.iouThrs.tolist(), values, strict=True))


def _evaluated(ground_truth: Any, results: Any, sigmas: Sequence[float]) -> Any:
    """COCO's evaluation after its run."""
    truth = _numbered_from_one(_read(ground_truth))
    found = [dict(result) for result in _read(results)]
    for pose in (*truth["annotations"], *found):
        _check_sigmas(sigmas, len(pose["keypoints"]) // 3)
    unknown = {pose["image_id"] for pose in found} - {image["id"] for image in truth["images"]}
    if unknown:
        raise ValueError(
            f"{len(unknown)} images of the results are not in the ground truth: "
            f"{sorted(unknown)[:5]}"
        )
    from faster_coco_eval import COCO, COCOeval_faster  # here: it is only needed to score

    coco = COCO(truth, print_function=_silent)
    evaluation = COCOeval_faster(
        coco,
        coco.loadRes(found),
        iouType="keypoints",
        kpt_oks_sigmas=list(sigmas),
        print_function=_silent,
    )
    evaluation.run()
    return evaluation


def _numbered_from_one(coco: dict[str, Any]) -> dict[str, Any]:
    """Copy COCO annotations, give each a new id, and fill in what the evaluation relies on.

    COCOeval takes an annotation with id 0 for "no match" (perfect predictions then score AP 0.99),
    and one without `num_keypoints` for one to ignore.
    """
    annotations = []
    for number, annotation in enumerate(coco["annotations"], start=1):
        told = {name: value for name, value in annotation.items() if value is not None}
        if missing := {"image_id", "category_id", "bbox", "keypoints"} - told.keys():
            lacks = f"annotation {told.get('id', number)} has no {', '.join(sorted(missing))}"
            raise ValueError(f"{lacks}: COCO's evaluation needs them")
        pose = {"iscrowd": 0, **told, "id": number}
        pose.setdefault("num_keypoints", sum(flag > 0 for flag in pose["keypoints"][2::3]))
        pose.setdefault("area", pose["bbox"][2] * pose["bbox"][3])
        annotations.append(pose)
    found = [{"id": one} for one in sorted({pose["category_id"] for pose in annotations})]
    return {**coco, "categories": coco.get("categories") or found, "annotations": annotations}


def _read(source: Any) -> Any:
    if isinstance(source, (str, PathLike)):
        return json.loads(Path(source).read_text(encoding="utf-8"))
    return source


def _silent(*_: object, **__: object) -> None:
    """Take the place of faster_coco_eval's printing: the caller logs the figures."""


def _check_sigmas(sigmas: Sequence[float], keypoints: int) -> None:
    if len(sigmas) != keypoints:
        raise ValueError(
            f"{len(sigmas)} OKS sigmas for poses of {keypoints} keypoints: give one for each"
        )


def _sums(
    values: Float[Tensor, "N K"], visible: Shaped[Tensor, "N K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """Add up the values of visible keypoints, and count these."""
    counted = visible.cpu() > 0
    return torch.where(counted, values, 0.0).sum(0), counted.sum(0).double()


def _distance(
    predicted_xy: Float[Tensor, "N K 2"], true_xy: Float[Tensor, "N K 2"]
) -> Float[Tensor, "N K"]:
    return (_exact(predicted_xy) - _exact(true_xy)).norm(dim=-1)


def _exact(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.detach().cpu().double()  # on the CPU: Apple's GPUs have no float64

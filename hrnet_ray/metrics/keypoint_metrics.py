"""Keypoint metrics: PCKh, endpoint error, OKS, and COCO's AP and AR.

A metric is kept as sums and divided once, at the end. The sums of several workers add up, so their
metric equals that of a single process. Shapes: N instances, K keypoints. Points are in image pixels
and compared in float64.
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

MPII_NUM_KEYPOINTS = 16
MPII_EXCLUDED_KEYPOINTS = (6, 7)  # pelvis and thorax: in the published table, but not in its mean
COCO_METRIC_NAMES = ("AP", "AP50", "AP75", "APM", "APL", "AR", "AR50", "AR75", "ARM", "ARL")

MeanT = TypeVar("MeanT", bound="MaskedKeypointMean")


@dataclass(frozen=True)
class MaskedKeypointMean:
    """Mean over visible keypoints, stored as sum and count."""

    value_sum: Float[Tensor, " K"]
    visible_count: Float[Tensor, " K"]
    excluded_keypoints: tuple[int, ...] = ()
    """Keypoints that `mean` excludes."""

    def __add__(self: MeanT, other: MeanT) -> MeanT:
        if self._get_definition() != other._get_definition():
            both = f"{self._get_definition()} and {other._get_definition()}"
            raise ValueError(f"metrics with different settings cannot be added: {both}")
        return type(self)(
            self.value_sum + other.value_sum,
            self.visible_count + other.visible_count,
            *self._get_definition(),
        )

    def __radd__(self: MeanT, start: int) -> MeanT:
        """Support `sum`, which starts from 0."""
        if start != 0:
            raise TypeError(f"cannot add {start} and a metric")
        return self

    def per_keypoint(self) -> Float[Tensor, " K"]:
        """Return the mean of each keypoint; NaN if it is never visible."""
        return self.value_sum / self.visible_count

    def mean(self) -> float:
        """Return the mean over all visible keypoints except `excluded_keypoints`; NaN without any.

        A keypoint that is visible more often has more weight (micro average).
        """
        included = [keypoint for keypoint in range(len(self.visible_count)) if keypoint not in self.excluded_keypoints]
        return (self.value_sum[included].sum() / self.visible_count[included].sum()).item()

    def _get_definition(self) -> tuple[Any, ...]:
        """Return the settings that must be equal in two scores to add them."""
        return (self.excluded_keypoints,)


@dataclass(frozen=True)
class PCKh(MaskedKeypointMean):
    """Fraction of visible keypoints within `threshold` head sizes of the truth, 0 to 1."""

    threshold: float = 0.5

    def _get_definition(self) -> tuple[Any, ...]:
        return (self.excluded_keypoints, self.threshold)


def pckh(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    head_size: Float[Tensor, " N"],
    *,
    threshold: float | int = 0.5,
    excluded_keypoints: Sequence[int] | None = None,
) -> PCKh:
    """Count the keypoints within `threshold` head sizes (inclusive) of the truth.

    For MPII, `head_size` is 0.6 times the diagonal of the head box. With another length, the result
    is a plain PCK. `excluded_keypoints` are left out of the mean. The default is pelvis and thorax
    (6 and 7) for 16 keypoints, as in the published MPII evaluation, and none for other skeletons.
    """
    if excluded_keypoints is None:
        excluded_keypoints = MPII_EXCLUDED_KEYPOINTS if predicted_xy.shape[1] == MPII_NUM_KEYPOINTS else ()
    error = compute_head_normalized_error(predicted_xy, true_xy, head_size)
    hits, visible_count = _sum_visible((error <= threshold).double(), visible)
    return PCKh(hits, visible_count, tuple(excluded_keypoints), float(threshold))


def compute_head_normalized_error(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    head_size: Float[Tensor, " N"],
) -> Float[Tensor, "N K"]:
    """Compute the distance to the truth in head sizes, or in another reference length."""
    return _compute_distance(predicted_xy, true_xy) / _to_cpu_double(head_size)[:, None]


def compute_pckh_curve(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    head_size: Float[Tensor, " N"],
    *,
    thresholds: Sequence[float] = tuple(step / 100 for step in range(51)),
    excluded_keypoints: Sequence[int] | None = None,
) -> tuple[PCKh, ...]:
    """Compute PCKh at each threshold."""
    return tuple(
        pckh(
            predicted_xy,
            true_xy,
            visible,
            head_size,
            threshold=threshold,
            excluded_keypoints=excluded_keypoints,
        )
        for threshold in thresholds
    )


def compute_pckh_auc(pckh_scores: Sequence[PCKh]) -> float:
    """Compute the area under a PCKh curve by trapezoids, normalized to 0 to 1."""
    means = torch.tensor([score.mean() for score in pckh_scores], dtype=torch.float64)
    thresholds = torch.tensor([score.threshold for score in pckh_scores], dtype=torch.float64)
    return (torch.trapezoid(means, thresholds) / (thresholds[-1] - thresholds[0])).item()


def compute_endpoint_error(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
) -> MaskedKeypointMean:
    """Compute the endpoint error (EPE): the distance to the truth in the unit of the points."""
    return MaskedKeypointMean(*_sum_visible(_compute_distance(predicted_xy, true_xy), visible))


def compute_oks_per_keypoint(
    predicted_xy: Float[Tensor, "N K 2"],
    true_xy: Float[Tensor, "N K 2"],
    visible: Shaped[Tensor, "N K"],
    area: Float[Tensor, " N"],
    *,
    sigmas: Sequence[float],
) -> MaskedKeypointMean:
    """Compute the mean object keypoint similarity (0 to 1) of each keypoint over the instances.

    `area` is that of the instance in square pixels. COCO averages over the keypoints of an instance
    instead.
    """
    _check_sigma_count(sigmas, predicted_xy.shape[1])
    scale = 2 * torch.tensor(sigmas, dtype=torch.float64) * _to_cpu_double(area).sqrt()[:, None]
    similarity = torch.exp(-(_compute_distance(predicted_xy, true_xy) / scale).square() / 2)
    return MaskedKeypointMean(*_sum_visible(similarity, visible))


def coco_oks_metrics(
    ground_truth: dict[str, Any] | str | PathLike[str],
    results: Sequence[dict[str, Any]] | str | PathLike[str],
    *,
    sigmas: Sequence[float],
) -> dict[str, float]:
    """Compute COCO's keypoint metrics: AP, AP50, AP75, APM, APL, AR, AR50, AR75, ARM, ARL.

    This runs faster-coco-eval. The evaluator in `metrics.oks` serves bootstrap intervals and lacks
    the area ranges (APM, APL, ARM, ARL). Each checks the other in tests.

    Args:
        ground_truth: COCO annotations, or the path of their JSON. Neither argument is changed.
        results: COCO results (image_id, category_id, keypoints, score), or the path of their JSON.
        sigmas: OKS sigmas, one per keypoint.

    A metric is -1 if there is no instance in its range: ATRW has none of medium size (APM).

    Raises:
        ValueError: the number of keypoints differs from that of the OKS sigmas, or a result has an
            unknown image.
    """
    figures = _run_coco_evaluation(ground_truth, results, sigmas).stats
    return dict(zip(COCO_METRIC_NAMES, map(float, figures), strict=True))


def compute_ap_per_oks_threshold(
    ground_truth: dict[str, Any] | str | PathLike[str],
    results: Sequence[dict[str, Any]] | str | PathLike[str],
    *,
    sigmas: Sequence[float],
) -> list[tuple[float, float]]:
    """Compute AP at each of the ten OKS thresholds whose mean is COCO's AP.

    AP is -1 if there is no instance.

    Raises:
        ValueError: as in `coco_oks_metrics`.
    """
    evaluation = _run_coco_evaluation(ground_truth, results, sigmas)
    # Axes: threshold, recall, category, area range, maximum poses; area range 0 is all.
    precision = evaluation.eval["precision"][..., 0, -1]
    present = [part[part > -1] for part in precision]
    values = [float(part.mean()) if part.size else -1.0 for part in present]
    return list(zip(evaluation.params.iouThrs.tolist(), values, strict=True))


def _run_coco_evaluation(ground_truth: Any, results: Any, sigmas: Sequence[float]) -> Any:
    """Run COCO's evaluation."""
    truth = _prepare_coco_annotations(_read_json_source(ground_truth))
    poses = [dict(result) for result in _read_json_source(results)]
    for pose in (*truth["annotations"], *poses):
        _check_sigma_count(sigmas, len(pose["keypoints"]) // 3)
    unknown = {pose["image_id"] for pose in poses} - {image["id"] for image in truth["images"]}
    if unknown:
        raise ValueError(f"{len(unknown)} images of the results are not in the ground truth: {sorted(unknown)[:5]}")
    from faster_coco_eval import COCO, COCOeval_faster  # slow import, only needed here

    coco = COCO(truth, print_function=_ignore_printed_text)
    evaluation = COCOeval_faster(
        coco,
        coco.loadRes(poses),
        iouType="keypoints",
        kpt_oks_sigmas=list(sigmas),
        print_function=_ignore_printed_text,
    )
    evaluation.run()
    return evaluation


def _prepare_coco_annotations(coco_document: dict[str, Any]) -> dict[str, Any]:
    """Copy COCO annotations with new ids and with the fields that the evaluation needs.

    COCOeval treats an annotation with id 0 as "no match" (perfect predictions then score AP 0.99)
    and ignores an annotation without `num_keypoints`.
    """
    annotations = []
    for number, annotation in enumerate(coco_document["annotations"], start=1):
        fields = {name: value for name, value in annotation.items() if value is not None}
        if missing := {"image_id", "category_id", "bbox", "keypoints"} - fields.keys():
            lacks = f"annotation {fields.get('id', number)} has no {', '.join(sorted(missing))}"
            raise ValueError(f"{lacks}: COCO's evaluation needs them")
        pose = {"iscrowd": 0, **fields, "id": number}
        pose.setdefault("num_keypoints", sum(flag > 0 for flag in pose["keypoints"][2::3]))
        pose.setdefault("area", pose["bbox"][2] * pose["bbox"][3])
        annotations.append(pose)
    categories = [{"id": id} for id in sorted({pose["category_id"] for pose in annotations})]
    return {
        **coco_document,
        "categories": coco_document.get("categories") or categories,
        "annotations": annotations,
    }


def _read_json_source(source: Any) -> Any:
    if isinstance(source, (str, PathLike)):
        return json.loads(Path(source).read_text(encoding="utf-8"))
    return source


def _ignore_printed_text(*_: object, **__: object) -> None:
    """Discard the output of faster_coco_eval; the caller logs the metrics."""


def _check_sigma_count(sigmas: Sequence[float], num_keypoints: int) -> None:
    if len(sigmas) != num_keypoints:
        raise ValueError(f"expected {num_keypoints} OKS sigmas, one per keypoint, got {len(sigmas)}")


def _sum_visible(
    values: Float[Tensor, "N K"], visible: Shaped[Tensor, "N K"]
) -> tuple[Float[Tensor, " K"], Float[Tensor, " K"]]:
    """Sum the values of visible keypoints, and count these keypoints."""
    counted = visible.cpu() > 0
    return torch.where(counted, values, 0.0).sum(0), counted.sum(0).double()


def _compute_distance(predicted_xy: Float[Tensor, "N K 2"], true_xy: Float[Tensor, "N K 2"]) -> Float[Tensor, "N K"]:
    return (_to_cpu_double(predicted_xy) - _to_cpu_double(true_xy)).norm(dim=-1)


def _to_cpu_double(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    return values.detach().cpu().double()  # on the CPU: Apple's GPUs have no float64

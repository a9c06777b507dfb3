"""One epoch of learning, and one of judging.

The loop knows batches. It does not know data sets, clusters or settings.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.order import LEAST_ROWS
from hrnet_ray.learning.average import Average
from hrnet_ray.learning.batch import CropBatch, PoseBatch, model_input
from hrnet_ray.learning.guard import Guard, number_or_nan
from hrnet_ray.pose.geometry import invert, move
from hrnet_ray.pose.heatmaps import decode_heatmaps, encode_heatmaps, merge_flipped
from hrnet_ray.pose.losses import joints_mse, joints_ohkm

LOSSES = {"mse": joints_mse, "ohkm": joints_ohkm}


@dataclass(frozen=True, kw_only=True)
class Target:
    """What the heatmaps should look like, and how a miss is weighed."""

    input_hw: tuple[int, int]
    heatmap_hw: tuple[int, int]
    sigma: float
    rounded: bool = True
    loss: str = "mse"


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How heatmaps become keypoints."""

    method: str
    flip_order: tuple[int, ...] | None
    """Average with the mirrored crop's prediction; None for one forward pass only."""
    shift: bool
    stride: int
    sigma: float
    """The heatmaps' own, which DARK's blur must match."""


@dataclass(frozen=True)
class Predictions:
    """Keypoints of N rows, by row id. Any order; parts from several workers simply join."""

    ids: Int[Tensor, " N"]
    image_xy: Float[Tensor, "N K 2"]
    scores: Float[Tensor, "N K"]
    losses: Float[Tensor, " N"] | None = None
    """What training makes small, where it was asked for."""

    @classmethod
    def none(cls, keypoints: int = 0) -> "Predictions":
        """No rows at all."""
        ids = torch.zeros(0, dtype=torch.int64)
        return cls(ids, torch.zeros(0, keypoints, 2), torch.zeros(0, keypoints))

    @classmethod
    def joined(cls, parts: Iterable["Predictions"]) -> "Predictions":
        """All parts as one, ordered by id. A part without rows adds nothing."""
        parts = [part for part in parts if len(part.ids)]
        if not parts:
            return cls.none()
        ids = torch.cat([part.ids for part in parts])
        order = ids.argsort()
        losses = [part.losses for part in parts if part.losses is not None]
        return cls(
            ids[order],
            torch.cat([part.image_xy for part in parts])[order],
            torch.cat([part.scores for part in parts])[order],
            torch.cat(losses)[order] if len(losses) == len(parts) else None,
        )


def train_epoch(
    model: nn.Module,
    batches: Iterable[PoseBatch],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    *,
    target: Target,
    bf16: bool = False,
    accumulate: int = 1,
    clip_norm: float = 0.0,
    average: Average | None = None,
    each_step: Callable[[int], None] = lambda crops: None,
    guard: Guard | None = None,
) -> Float[Tensor, ""]:
    """Take one optimizer step per batch and return the mean loss (on the device).

    `accumulate` takes a batch in so many parts, for less memory: the gradient is the whole batch's,
    while BatchNorm sees a part. `clip_norm` shortens a longer gradient to that; 0 never does.
    `average` follows the weights. `each_step` is told how many crops were learnt from, and ends the
    epoch there if it raises. `guard` (of this epoch) leaves out steps whose loss or gradient is no
    number; the schedule goes on.

    Raises:
        Diverging: these are too many.
    """
    guard = guard or Guard(model)
    model.train()
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = _learn(model, batch, target=target, bf16=bf16, parts=accumulate)
        bad = guard.step(optimizer, loss, clip_norm=clip_norm)
        scheduler.step()
        if average:
            average.update(unless=bad)
        guard.look()
        each_step(len(batch.crops))
    return guard.end()


def _learn(
    model: nn.Module, batch: PoseBatch, *, target: Target, bf16: bool, parts: int
) -> Float[Tensor, ""]:
    """Add the batch's gradient, part by part, and return its loss."""
    shares = _shares(batch, parts)
    losses = []
    for share in shares:
        # DDP sums the gradients up over the workers with the last part only.
        early = share is not shares[-1]
        quiet = early and isinstance(model, DistributedDataParallel) and model.no_sync()
        with quiet or nullcontext():
            part = len(share.crops) / len(batch.crops)
            loss = _loss(model, share, target=target, bf16=bf16) * (batch.weight * part)
            loss.backward(number_or_nan(loss))
        losses.append(loss.detach())  # stays on the device: .item() here would stall every step
    return torch.stack(losses).sum()


def _shares(batch: PoseBatch, parts: int) -> list[PoseBatch]:
    """The batch in equal parts, as many as leave every worker's BatchNorm something to learn from.

    They are as many on every worker: in each one, a shared BatchNorm waits for all of them.
    """
    fewest = len(batch.crops) if batch.fewest is None else batch.fewest
    parts = max(1, min(parts, fewest // LEAST_ROWS))
    if parts == 1:
        return [batch]
    crops, crop_xy, visible = (
        column.tensor_split(parts) for column in (batch.crops, batch.crop_xy, batch.visible)
    )
    return [PoseBatch(crops[at], crop_xy[at], visible[at], batch.weight) for at in range(parts)]


def _loss(model: nn.Module, batch: PoseBatch, *, target: Target, bf16: bool) -> Float[Tensor, ""]:
    heatmaps, weights = _wanted(batch.crop_xy, batch.visible, target)
    with torch.autocast(batch.crops.device.type, torch.bfloat16, enabled=bf16):
        predicted = model(batch.crops.contiguous(memory_format=torch.channels_last))
    return LOSSES[target.loss](predicted.float(), heatmaps, weights)


def _wanted(
    crop_xy: Float[Tensor, "B K 2"], visible: Bool[Tensor, "B K"], target: Target
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K"]]:
    return encode_heatmaps(
        crop_xy,
        visible,
        input_hw=target.input_hw,
        heatmap_hw=target.heatmap_hw,
        sigma=target.sigma,
        rounded=target.rounded,
    )


@torch.inference_mode()
def predict(
    model: nn.Module,
    batches: Iterable[CropBatch],
    *,
    decoding: Decoding,
    bf16: bool = False,
    target: Target | None = None,
) -> Predictions:
    """Predict the keypoints of every row, in original image pixels, on the CPU.

    With a `target`, each row has its loss, as published: of the heatmaps that are decoded. The
    batches must know the truth then.
    """
    return Predictions.joined(
        [_predict_batch(model, batch, target, decoding=decoding, bf16=bf16) for batch in batches]
    )


def _predict_batch(
    model: nn.Module, batch: CropBatch, target: Target | None, *, decoding: Decoding, bf16: bool
) -> Predictions:
    heatmaps = predict_heatmaps(model, batch.crops, decoding=decoding, bf16=bf16)
    heatmap_xy, scores = decode_heatmaps(
        heatmaps, method=decoding.method, kernel=dark_kernel(decoding.sigma)
    )
    image_from_crop = invert(batch.crop_from_image).to(heatmap_xy.dtype)
    image_xy = move(image_from_crop, heatmap_xy * decoding.stride)
    losses = _row_losses(heatmaps, batch, target).cpu() if target else None
    return Predictions(batch.ids.cpu(), image_xy.cpu(), scores.cpu(), losses)


def _row_losses(
    heatmaps: Float[Tensor, "B K h w"], batch: CropBatch, target: Target
) -> Float[Tensor, " B"]:
    assert batch.image_xy is not None
    assert batch.visible is not None
    crop_xy = move(batch.crop_from_image, batch.image_xy).float()
    wanted, weights = _wanted(crop_xy, batch.visible, target)
    rows = zip(*(column.split(1) for column in (heatmaps, wanted, weights)), strict=True)
    return torch.stack([LOSSES[target.loss](*row) for row in rows])


def dark_kernel(sigma: float) -> int:
    """DarkPose blurs with a kernel that fits its targets: 11 cells for sigma 2, 17 for sigma 3."""
    return max(3, 2 * round(3 * sigma - 1) + 1)


@torch.inference_mode()
def predict_heatmaps(
    model: nn.Module, crops: UInt8[Tensor, "B H W 3"], *, decoding: Decoding, bf16: bool = False
) -> Float[Tensor, "B K h w"]:
    """The heatmaps that `predict` decodes: with a flip test, those of both sides."""
    model.eval()
    crops = model_input(crops).contiguous(memory_format=torch.channels_last)
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=bf16):
        upright = model(crops).float()
        if decoding.flip_order is None:
            return upright
        mirrored = model(crops.flip(-1)).float()
    return merge_flipped(upright, mirrored, flip_order=decoding.flip_order, shift=decoding.shift)

"""No training step synchronizes the host and the GPU.

Our own code is checked without a GPU: `meta` tensors take the same path, and every operation that
would read a value or copy one is recorded. Only a GPU shows what torch does inside.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode, resolve_name

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data.batch import (
    AugmentationPipelineConfig,
    RawTrainBatch,
    TrainBatch,
    augment_batch,
)
from hrnet_ray.models import HRNet
from hrnet_ray.pose.heatmaps import average_flipped_heatmaps, decode_heatmaps, encode_heatmaps
from hrnet_ray.pose.losses import keypoint_mse_loss, keypoint_ohkm_loss
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.training.ema import ModelEma
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer

OTTER = Skeleton(
    name="otter",
    keypoints=("left_paw", "right_paw", "left_ear", "right_ear", "nose", "tail"),
    upper_body=(2, 3, 4),
)
AUGMENTATION = AugmentationPipelineConfig(
    skeleton=OTTER,
    input_hw=(64, 64),
    padding=1.25,
    augmentation=AugmentationConfig(half_body_prob=0.5, brightness=0.1, contrast=0.1, saturation=0.1),
    seed=0,
)
TARGET = HeatmapTargetConfig(input_hw=(64, 64), heatmap_hw=(16, 16), sigma=2.0)
META = torch.device("meta")
READS = {"item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy", "nonzero"}
COPIES = {"tensor", "as_tensor", "new_tensor", "asarray"}
MOVES = {"to", "cuda", "copy_"}


class SyncRecorder(TorchFunctionMode):
    """Records operations that would synchronize the host and the GPU."""

    def __init__(self) -> None:
        self.syncs: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        on_gpu = any(isinstance(x, Tensor) and x.device == META for x in (*args, out))
        if on_gpu and (
            name in READS | COPIES
            or (
                (name in MOVES and not (kwargs or {}).get("non_blocking"))
                and any(isinstance(x, Tensor) and x.device != META for x in (*args, out))
            )
            or (name in ("__getitem__", "__setitem__") and needs_host_index(args[1]))
        ):
            self.syncs.append(resolve_name(func) or name)
        return out


def needs_host_index(index: object) -> bool:
    """Whether an index is a Python list, a CPU tensor or a mask, which are copied or read."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(
        isinstance(part, list) or (isinstance(part, Tensor) and (part.device != META or part.dtype == torch.bool))
        for part in parts
    )


def make_raw_batch(device: torch.device) -> RawTrainBatch:
    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=device)

    identity = torch.eye(3).expand(4, 3, 3).to(device)
    return RawTrainBatch(
        ids=torch.arange(4, device=device),
        canvases=zeros(4, 80, 80, 3, dtype=torch.uint8),
        canvas_from_image=identity,
        box_xywh=torch.tensor([[10.0, 10.0, 60.0, 60.0]]).expand(4, 4).to(device),
        image_xy=zeros(4, 6, 2) + 40,
        visible=torch.ones(4, 6, dtype=torch.bool, device=device),
    )


def run_all_but_the_model(batch: RawTrainBatch) -> None:
    augmented = augment_batch(batch, AUGMENTATION, epoch=0)
    for rounded in (True, False):
        maps, weights = encode_heatmaps(
            augmented.crop_xy,
            augmented.visible,
            input_hw=(64, 64),
            heatmap_hw=(16, 16),
            sigma=2.0,
            rounded=rounded,
        )
    keypoint_mse_loss(maps, maps, weights)
    keypoint_ohkm_loss(maps, maps, weights, topk=3)
    merged = average_flipped_heatmaps(maps, maps, flip_order=OTTER.flip_order)
    for method in ("argmax", "quarter", "dark"):
        decode_heatmaps(merged, method=method)


def test_augmentation_targets_and_decoding_do_not_synchronize():
    batch = make_raw_batch(META)
    run_all_but_the_model(batch)  # the first call copies constants

    with SyncRecorder() as recorder:
        run_all_but_the_model(batch)

    assert recorder.syncs == []


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.new_tensor([1.0, 2.0]),
        lambda x: x[[0, 1]],
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: x.__setitem__([0], 1.0),
        lambda x: torch.zeros(3).to(x.device),
    ],
)
def test_a_synchronizing_operation_is_recorded(operation):
    with SyncRecorder() as recorder:
        operation(torch.zeros(3, device=META))

    assert len(recorder.syncs) == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("bf16", [False, True])
def test_a_step_on_a_gpu_does_not_synchronize(bf16: bool):
    device = torch.device("cuda", 0)
    model = HRNet(width=8, keypoints=6).to(device, memory_format=torch.channels_last)  # pyright: ignore
    optimizer = build_optimizer(model, optimizer_name="adamw", lr=1e-3, weight_decay=0.01)
    scheduler = build_lr_scheduler(
        optimizer, schedule="steps", milestones=(), epochs=1, warmup_steps=0, steps_per_epoch=4
    )
    ema = ModelEma(model, decay=0.99)
    batch = make_raw_batch(device)

    def batches() -> Iterator[TrainBatch]:
        yield augment_batch(batch, AUGMENTATION, epoch=0)  # the first step may synchronize
        with forbid_synchronization():
            for epoch in range(1, 4):
                yield augment_batch(batch, AUGMENTATION, epoch=epoch)

    loss = train_epoch(
        model,
        batches(),
        optimizer,
        scheduler,
        target=TARGET,
        bf16=bf16,
        max_grad_norm=1.0,
        ema=ema,
    )

    assert loss.isfinite()


@contextmanager
def forbid_synchronization() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")

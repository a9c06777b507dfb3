"""What a training step spends on other things than its net: heatmaps, the warp, waiting for rows.

    python benchmarks/device_share.py                       # the GPU where there is one
    python benchmarks/device_share.py --batch 64 --rows 4096

W32 at 256 x 256, fed as a worker feeds it: decoded canvases lie in memory, a thread puts batches
together and moves them to the device, which warps them and draws their heatmaps. What an object
store adds, `perf/data_wait_frac` of a real run tells. bf16 on GPUs, fp32 on CPUs. Ends with one
JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data.batch import (
    AugmentationPipelineConfig,
    RawTrainBatch,
    TrainBatch,
    augment_batch,
    to_raw_train_batch,
)
from hrnet_ray.data.records import CANVAS_PX, Arrays
from hrnet_ray.models import HRNet
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from hrnet_ray.training.precision import should_use_bf16
from hrnet_ray.utils.prefetch import prefetch_items

ROUNDS, SIDE = 5, 256
TARGET = HeatmapTargetConfig(input_hw=(SIDE, SIDE), heatmap_hw=(SIDE // 4, SIDE // 4), sigma=2.0)
SKELETON = Skeleton(name="sixteen", keypoints=tuple(f"point {k}" for k in range(16)))
RECIPE = AugmentationPipelineConfig(
    skeleton=SKELETON,
    input_hw=TARGET.input_hw,
    padding=1.25,
    augmentation=AugmentationConfig(brightness=0.2, contrast=0.2, saturation=0.2),
    seed=0,
)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rows", type=int, default=32, help="of an epoch")
    parser.add_argument("--width", type=int, default=32)
    args = parser.parse_args()
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    torch.backends.cudnn.benchmark = True  # as a worker has it
    rows, epoch = made_up(args.rows), epoch_of(args.width, device)

    batches = list(shares(rows, args.batch, device))
    poses = [augment_batch(batch, RECIPE, epoch=0) for batch in batches]
    steps = len(batches)
    net = seconds(lambda: epoch(poses), device) / steps
    warp = seconds(lambda: augment_batch(batches[0], RECIPE, epoch=0), device)
    heatmaps = seconds(lambda: wanted(poses[0]), device)
    waits: list[float] = []
    whole = seconds(lambda: epoch(fed(rows, args.batch, device, waits)), device) / steps
    wait = statistics.median(waits[1:]) / steps

    print(
        f"{device.type}, W{args.width}, {args.batch} crops: a step {whole * 1e3:.1f} ms, "
        f"{args.batch / whole:.1f} pictures/s; {net * 1e3:.1f} ms with batches that are ready"
    )
    print(
        f"  warp and colours {warp * 1e3:.2f} ms, heatmaps {heatmaps * 1e3:.2f} ms, "
        f"waiting for rows {wait * 1e3:.2f} ms"
    )
    shared = {"wait_share": wait, "warp_share": warp, "heatmap_share": heatmaps}
    print(json.dumps({name: round(taken / whole, 5) for name, taken in shared.items()}))


def made_up(count: int) -> Arrays:
    """Decoded training rows; the canvases are noise."""
    random = np.random.default_rng(0)
    matrix = np.eye(3, dtype=np.float32)
    return {
        "id": np.arange(count),
        "canvas": random.integers(0, 256, (count, CANVAS_PX, CANVAS_PX, 3), np.uint8),
        "canvas_from_image": np.tile(matrix, (count, 1, 1)),
        "box_xywh": np.tile(np.float32([50, 50, 200, 200]), (count, 1)),
        "image_xy": random.uniform(60, 240, (count, len(SKELETON), 2)).astype(np.float32),
        "visible": np.ones((count, len(SKELETON)), bool),
    }


def shares(rows: Arrays, size: int, device: torch.device) -> Iterator[RawTrainBatch]:
    """Batches of rows in a random order, on the device."""
    order = np.random.default_rng(1).permutation(len(rows["id"]))
    for at in range(0, len(order) - size + 1, size):
        part = order[at : at + size]
        yield to_raw_train_batch({name: column[part] for name, column in rows.items()}, device)


def fed(rows: Arrays, size: int, device: torch.device, waits: list[float]) -> Iterator[TrainBatch]:
    """Batches as a worker gets them; adds the seconds that it waited for rows to `waits`."""
    ready, waited = prefetch_items(shares(rows, size, device)), 0.0
    while True:
        began = time.perf_counter()
        batch = next(ready, None)
        waited += time.perf_counter() - began
        if batch is None:
            break
        yield augment_batch(batch, RECIPE, epoch=0)
    waits.append(waited)


def epoch_of(width: int, device: torch.device) -> Callable:
    """Learns from all of some batches."""
    torch.manual_seed(0)
    model = HRNet(width, len(SKELETON)).to(device, memory_format=torch.channels_last)
    optimizer = build_optimizer(model, optimizer_name="adam", lr=1e-3, weight_decay=0.0)
    scheduler = build_lr_scheduler(
        optimizer, schedule="steps", milestones=(), epochs=1, warmup_steps=0, steps_per_epoch=1
    )
    bf16 = should_use_bf16(device)
    return lambda poses: train_epoch(model, poses, optimizer, scheduler, target=TARGET, bf16=bf16)


def wanted(batch: TrainBatch) -> None:
    """A batch's heatmaps."""
    encode_heatmaps(
        batch.crop_xy,
        batch.visible,
        input_hw=TARGET.input_hw,
        heatmap_hw=TARGET.heatmap_hw,
        sigma=TARGET.sigma,
    )


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of several runs, the first one apart."""
    taken = []
    for _ in range(ROUNDS + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


if __name__ == "__main__":
    from as_workers import start_again

    start_again()
    main()

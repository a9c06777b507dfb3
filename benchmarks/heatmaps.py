"""What making the heatmaps on the device costs, as a share of a training step.

    python benchmarks/heatmaps.py

W32 at 256 x 256, batches of 8, on the CPU (or the GPU where there is one), in fp32. Ends with one
JSON line.
"""

import json
import statistics
import time

import torch

from hrnet_ray.learning.batch import PoseBatch
from hrnet_ray.learning.loop import Target, train_epoch
from hrnet_ray.learning.optim import make_optimizer, make_scheduler
from hrnet_ray.models import HRNet
from hrnet_ray.pose.heatmaps import encode_heatmaps

BATCH, KEYPOINTS = 8, 16
STEPS, ENCODINGS = 3, 50
TARGET = Target(input_hw=(256, 256), heatmap_hw=(64, 64), sigma=2.0)


def seconds(work, *, times: int, device: torch.device) -> float:
    """The median of several runs, the first one apart."""
    taken = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


def main() -> None:
    """Measure, print."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = HRNet(width=32, keypoints=KEYPOINTS).to(device, memory_format=torch.channels_last)
    batch = PoseBatch(
        crops=torch.randn(BATCH, 3, 256, 256, device=device),
        crop_xy=torch.rand(BATCH, KEYPOINTS, 2, device=device) * 255,
        visible=torch.ones(BATCH, KEYPOINTS, dtype=torch.bool, device=device),
    )
    optimizer = make_optimizer(model, algorithm="adam", lr=1e-3, weight_decay=0.0)
    scheduler = make_scheduler(
        optimizer, schedule="steps", milestones=(), epochs=1, warmup_steps=0, steps_per_epoch=1
    )

    def encode() -> None:
        encode_heatmaps(
            batch.crop_xy,
            batch.visible,
            input_hw=TARGET.input_hw,
            heatmap_hw=TARGET.heatmap_hw,
            sigma=TARGET.sigma,
        )

    def step() -> None:
        train_epoch(model, [batch], optimizer, scheduler, target=TARGET)

    encoding = seconds(encode, times=ENCODINGS, device=device)
    whole = seconds(step, times=STEPS, device=device)
    print(f"heatmaps {encoding * 1e3:.2f} ms of a step of {whole * 1e3:.0f} ms on {device.type}")
    print(json.dumps({"heatmap_share": round(encoding / whole, 5)}))


if __name__ == "__main__":
    main()

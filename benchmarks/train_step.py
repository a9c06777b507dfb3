"""This project's training step and evaluation against the plain published ones, side by side.

    python benchmarks/train_step.py            # W32, 256 x 256, batches of 8, 2 threads
    python benchmarks/train_step.py --quick    # under 2 minutes

Plain is fp32, NCHW, torch.optim.Adam and the published loss, keypoint after keypoint, over the same
layers; evaluation is the forward pass and that of the mirrored crops. The contestants take short
turns in one process; a figure is the median of the rounds' ratios, so that whatever else the
machine does meets all of them. The ceiling is the best that this machine reached on a large matrix
product or on convolutions of the net's own kinds, in turns as well. Ends with one JSON line.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.models.fused_batchnorm import convert_to_fused_batchnorm
from hrnet_ray.pose.heatmaps import average_flipped_heatmaps, encode_heatmaps
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.compile import try_compile_model
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from hrnet_ray.training.precision import has_native_bf16

KEYPOINTS = 16
FLIP_ORDER = (5, 4, 3, 2, 1, 0, 6, 7, 8, 9, 15, 14, 13, 12, 11, 10)
SIDE = 256
TARGET = HeatmapTargetConfig(input_hw=(SIDE, SIDE), heatmap_hw=(SIDE // 4, SIDE // 4), sigma=2.0)
CEILING_S = 0.15  # for each kind of work in a round
KINDS = ((32, 64), (64, 32), (128, 16), (256, 8))  # channels and rows of W32's convolutions
CPU_TIME = "count CPU seconds, not the clock's: for one thread on a machine that others use"
Work = Callable[[], object]


@dataclass(frozen=True)
class Setting:
    """What is measured, and where."""

    device: torch.device
    batch: int
    width: int
    turns_s: float
    clock: Callable[[], float] = time.perf_counter
    compiled: bool = False


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-time", action="store_true", help=CPU_TIME)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--compile", action="store_true", help="our step compiled, too: minutes")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if args.cpu_time else time.perf_counter
    turns_s = 40 if args.quick else 300
    setting = Setting(device, args.batch, args.width, turns_s, clock, compiled=args.compile)
    times, rates = measured(setting)
    report(setting, times, rates, flop=step_flop(setting))


def measured(setting: Setting) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Seconds of each contestant, and FLOP/s of the ceiling, by round; the first round is lost."""
    works = contestants(setting)
    precisions = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if not has_native_bf16(setting.device):
        del precisions["bf16"]
    times: dict[str, list[float]] = {name: [] for name in works}
    rates: dict[str, list[float]] = {name: [] for name in precisions}
    began = 0.0
    while not began or len(times["plain step"]) < 2 or time.perf_counter() - began < setting.turns_s:
        for name, work in works.items():
            times[name].append(seconds(work, setting))
        for name, precision in precisions.items():
            rates[name].append(ceiling(setting, precision))
        if not began:
            began = time.perf_counter()
            for column in (*times.values(), *rates.values()):
                column.clear()
    return times, rates


def contestants(setting: Setting) -> dict[str, Work]:
    """Who takes turns, in this order."""
    device, count = setting.device, setting.batch
    torch.manual_seed(0)
    batch = TrainBatch(
        crops=torch.randn(count, 3, SIDE, SIDE, device=device),
        crop_xy=torch.rand(count, KEYPOINTS, 2, device=device) * (SIDE - 1),
        visible=torch.ones(count, KEYPOINTS, dtype=torch.bool, device=device),
    )
    judged = HRNet(setting.width, KEYPOINTS).to(device).eval()
    quick = fold_batchnorm(judged.to(memory_format=torch.channels_last))
    rounded = fold_batchnorm(judged, bf16=True)
    judged = judged.to(memory_format=torch.contiguous_format)
    works = {
        "plain step": plain_step(setting, batch),
        "step fp32": our_step(setting, batch, bf16=False),
        "plain evaluation": lambda: flip_test(judged, batch.crops, bf16=False),
        "evaluation fp32": lambda: flip_test(quick, last(batch.crops), bf16=False),
    }
    if has_native_bf16(device):
        works["step bf16"] = our_step(setting, batch, bf16=True)
        works["evaluation bf16"] = lambda: flip_test(rounded, last(batch.crops), bf16=True)
    if setting.compiled:
        bf16 = has_native_bf16(device)
        works["step compiled"] = our_step(setting, batch, bf16=bf16, compiled=True)
    return works


def plain_step(setting: Setting, batch: TrainBatch) -> Work:
    """The published step (lib/core/function.py, lib/core/loss.py), heatmaps ready beforehand."""
    model = HRNet(setting.width, KEYPOINTS).to(setting.device).train()
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    target, weights = encode_heatmaps(
        batch.crop_xy, batch.visible, input_hw=(SIDE, SIDE), heatmap_hw=TARGET.heatmap_hw, sigma=2.0
    )

    def step() -> float:
        loss = published_loss(model(batch.crops), target, weights[..., None])
        adam.zero_grad()
        loss.backward()
        adam.step()
        return loss.item()

    return step


def published_loss(output: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """JointsMSELoss: one keypoint after the other."""
    count, keypoints = output.shape[:2]
    predicted = output.reshape(count, keypoints, -1).split(1, 1)
    wanted = target.reshape(count, keypoints, -1).split(1, 1)
    loss = output.new_zeros(())
    for keypoint in range(keypoints):
        weight = weights[:, keypoint]
        one, other = predicted[keypoint].squeeze(), wanted[keypoint].squeeze()
        loss = loss + 0.5 * F.mse_loss(one.mul(weight), other.mul(weight))
    return loss / keypoints


def our_step(setting: Setting, batch: TrainBatch, *, bf16: bool, compiled: bool = False) -> Work:
    """What a worker does with a batch, heatmaps included."""
    model = HRNet(setting.width, KEYPOINTS).to(setting.device, memory_format=torch.channels_last)
    if bf16 and setting.device.type == "cpu" and not compiled:
        convert_to_fused_batchnorm(model)
    if compiled and not try_compile_model(model, crops_shape=batch.crops.shape, bf16=bf16):
        raise SystemExit("it cannot be compiled here")
    optimizer = build_optimizer(model, optimizer_name="adam", lr=1e-3, weight_decay=0.0)
    scheduler = build_lr_scheduler(
        optimizer, schedule="steps", milestones=(), epochs=1, warmup_steps=0, steps_per_epoch=1
    )
    return lambda: train_epoch(model, [batch], optimizer, scheduler, target=TARGET, bf16=bf16)


@torch.inference_mode()
def flip_test(model: nn.Module, crops: Tensor, *, bf16: bool) -> Tensor:
    """Heatmaps of the crops, averaged with those of their mirror images."""
    with torch.autocast(crops.device.type, torch.bfloat16, enabled=bf16):
        upright, mirrored = model(crops), model(crops.flip(-1))
    return average_flipped_heatmaps(upright.float(), mirrored.float(), flip_order=FLIP_ORDER)


def last(crops: Tensor) -> Tensor:
    """Channels last in memory."""
    return crops.contiguous(memory_format=torch.channels_last)


def ceiling(setting: Setting, precision: torch.dtype) -> float:
    """The most FLOP/s that one kind of work reaches right now."""
    device = setting.device
    side = 1024 if device.type == "cpu" else 8192
    left, right = (torch.randn(side, side, device=device).to(precision) for _ in range(2))
    works = [(2.0 * side**3, lambda: left @ right)]
    for channels, rows in KINDS:
        crops = last(torch.randn(setting.batch, channels, rows, rows, device=device).to(precision))
        weights = last(torch.randn(channels, channels, 3, 3, device=device).to(precision))
        flop = 2.0 * setting.batch * rows**2 * channels**2 * 9
        works.append((flop, lambda c=crops, w=weights: F.conv2d(c, w, padding=1)))
    return max(flop / quickest(work, setting) for flop, work in works)


def quickest(work: Work, setting: Setting) -> float:
    """The least time of one call, out of as many as fit into `CEILING_S`."""
    least, ends = float("inf"), time.perf_counter() + CEILING_S
    work()
    with torch.inference_mode():
        while least == float("inf") or time.perf_counter() < ends:
            least = min(least, seconds(work, setting))
    return least


def seconds(work: Work, setting: Setting) -> float:
    """The time of one call."""
    began = setting.clock()
    work()
    if setting.device.type == "cuda":
        torch.cuda.synchronize()
    return setting.clock() - began


def step_flop(setting: Setting) -> int:
    """FLOP of the convolutions of one step, counted on shapes alone."""
    with torch.device("meta"):
        model = HRNet(setting.width, KEYPOINTS)
        crops = torch.zeros(setting.batch, 3, SIDE, SIDE)
    with FlopCounterMode(display=False) as counter:
        model(crops).sum().backward()
    return counter.get_total_flops()


def report(
    setting: Setting,
    times: dict[str, list[float]],
    rates: dict[str, list[float]],
    *,
    flop: int,
) -> None:
    """A table, and the JSON line. `flop` is a step's."""
    print(
        f"W{setting.width}, {SIDE} x {SIDE}, {setting.batch} crops, {torch.get_num_threads()} "
        f"threads, {setting.device.type}; {len(times['plain step'])} rounds"
    )
    for name, taken in times.items():
        plain = times["plain step" if "step" in name else "plain evaluation"]
        each = statistics.median(taken) / setting.batch
        print(
            f"  {name:17} {each:8.4f} s an image  {median_ratio(plain, taken):5.2f} x plain"
            f"  ({min(plain) / min(taken):.2f} x by each one's quickest turn)"
        )
    shares = {}
    for name, rate in rates.items():
        reached = [flop / taken for taken in times[f"step {name}"]]
        shares[name] = median_ratio(reached, rate)
        print(f"  ceiling {name}: {statistics.median(rate) / 1e9:,.0f} GFLOP/s, the step reaches {shares[name]:.0%}")
    best = list(rates)[-1]  # bf16 where there is bf16
    figures = {
        "step_ratio": median_ratio(times["plain step"], times[f"step {best}"]),
        "ceiling_share": shares[best],
        "eval_ratio": median_ratio(times["plain evaluation"], times[f"evaluation {best}"]),
        "step_ratio_fp32": median_ratio(times["plain step"], times["step fp32"]),
        "eval_ratio_fp32": median_ratio(times["plain evaluation"], times["evaluation fp32"]),
    }
    if "step compiled" in times:
        figures["step_ratio_compiled"] = median_ratio(times["plain step"], times["step compiled"])
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median over the rounds."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


if __name__ == "__main__":
    from as_workers import start_again

    start_again()
    main()

"""How much faster two training workers are than one, with a thread each.

    python benchmarks/scaling.py            # W32, 256 x 256, 8 crops a worker
    python benchmarks/scaling.py --quick    # under 2 minutes

Plain processes that meet over gloo, without Ray: what DDP itself costs. One worker alone and two
together take turns, and the figure is the median of the rounds' ratios. Where a machine has other
work to do, the CPU's own seconds tell more than the clock: a second figure takes, instead of the
clock, the CPU time that a worker needs for a step; what two workers need beyond one alone is what
working together costs. Ends with one JSON line.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.models import HRNet
from hrnet_ray.models.fused_batchnorm import convert_to_fused_batchnorm
from hrnet_ray.pose.targets import HeatmapTargetConfig
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer
from hrnet_ray.utils.collectives import DDP_OPTIONS

KEYPOINTS, SIDE = 16, 256
TARGET = HeatmapTargetConfig(input_hw=(SIDE, SIDE), heatmap_hw=(SIDE // 4, SIDE // 4), sigma=2.0)


@dataclass(frozen=True)
class Options:
    """What is measured."""

    crops: int
    width: int
    bf16: bool
    rounds: int
    steps: int
    bucket_mb: int
    static_graph: bool


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--crops", type=int, default=8, help="of a worker in a step")
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--bucket-mb", type=int, default=25)
    parser.add_argument("--static-graph", action="store_true")
    args = parser.parse_args()
    options = Options(
        crops=args.crops,
        width=args.width,
        bf16=args.bf16,
        rounds=3 if args.quick else 10,
        steps=1 if args.quick else 2,
        bucket_mb=args.bucket_mb,
        static_graph=args.static_graph,
    )
    with tempfile.TemporaryDirectory() as folder, get_context("spawn").Pool(2) as pool:
        tasks = [(rank, Path(folder), options) for rank in range(2)]
        first, _ = pool.starmap(work, tasks, chunksize=1)
    alone, together = first["alone"], first["together"]
    print(f"W{options.width}, {options.crops} crops a worker, {'bf16' if args.bf16 else 'fp32'}")
    for name, taken in first.items():
        clock, cpu = (statistics.median(column) for column in zip(*taken, strict=True))
        print(f"  {name:9} {clock:7.3f} s a step by the clock, {cpu:7.3f} s of CPU")
    by_clock, by_cpu = (
        statistics.median(2 * a[at] / t[at] for a, t in zip(alone, together, strict=True)) for at in range(2)
    )
    print(json.dumps({"efficiency_2": round(by_clock, 3), "efficiency_2_cpu": round(by_cpu, 3)}))


def work(rank: int, folder: Path, options: Options) -> dict[str, list[tuple[float, float]]]:
    """One worker: rounds of steps alone (only rank 0; the other sleeps) and together."""
    torch.set_num_threads(1)
    with group(rank, folder):
        return measured(rank, folder, options)  # DDP must have gone when its group goes


def measured(rank: int, folder: Path, options: Options) -> dict[str, list[tuple[float, float]]]:
    """Rounds of steps, as (clock, CPU) seconds each."""
    net = a_net(options)
    wrapped = DistributedDataParallel(
        a_net(options),
        **DDP_OPTIONS,
        bucket_cap_mb=options.bucket_mb,
        static_graph=options.static_graph,
    )
    alone, together = stepper(net, options), stepper(wrapped, options)
    alone(), together()  # the first ones also allocate
    taken: dict[str, list[tuple[float, float]]] = {"alone": [], "together": []}
    for _ in range(options.rounds):
        meet(folder, rank)
        if rank == 0:
            taken["alone"].append(alone())
        meet(folder, rank)
        taken["together"].append(together())
    return taken


@contextmanager
def group(rank: int, folder: Path) -> Iterator[None]:
    """Two workers that know each other."""
    distributed.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=2)
    try:
        yield
    finally:
        distributed.destroy_process_group()


def meet(folder: Path, rank: int) -> None:
    """Wait for the other worker, asleep: gloo's own barrier would need the core."""
    mine, other = (folder / f"{who}.count" for who in (rank, 1 - rank))
    count = int(mine.read_text()) + 1 if mine.exists() else 1
    mine.with_suffix(".part").write_text(str(count))
    mine.with_suffix(".part").replace(mine)
    while not other.exists() or int(other.read_text()) < count:
        time.sleep(0.002)


def a_net(options: Options) -> HRNet:
    """The same on every worker."""
    torch.manual_seed(0)
    net = HRNet(options.width, KEYPOINTS).to(memory_format=torch.channels_last)  # pyright: ignore
    if options.bf16:
        convert_to_fused_batchnorm(net)
    return net


def stepper(model: nn.Module, options: Options):
    """Take some steps; returns the seconds of one by the clock, and of this process's CPU."""
    batch = TrainBatch(
        crops=torch.randn(options.crops, 3, SIDE, SIDE),
        crop_xy=torch.rand(options.crops, KEYPOINTS, 2) * (SIDE - 1),
        visible=torch.ones(options.crops, KEYPOINTS, dtype=torch.bool),
    )
    optimizer = build_optimizer(model, optimizer_name="adam", lr=1e-3, weight_decay=0.0)
    scheduler = build_lr_scheduler(
        optimizer, schedule="steps", milestones=(), epochs=1, warmup_steps=0, steps_per_epoch=1
    )

    def take() -> tuple[float, float]:
        clock, cpu = time.perf_counter(), time.process_time()
        batches = [batch] * options.steps
        train_epoch(model, batches, optimizer, scheduler, target=TARGET, bf16=options.bf16)
        return (
            (time.perf_counter() - clock) / options.steps,
            (time.process_time() - cpu) / options.steps,
        )

    return take


if __name__ == "__main__":
    from as_workers import start_again

    start_again()
    main()

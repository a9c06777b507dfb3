"""This project's way to a training batch against the published way, in one run.

    python benchmarks/ingest.py [--folder PICTURES] [--quick]

The published way is benchmarks/classic.py: a torch DataLoader whose workers decode the whole
image, warp it and draw heatmaps for each sample. This project's stores the region around each
instance once, hands canvases to the device, and warps and draws there.

1. CPU time of a sample, one thread, the same instances in turn, of 1280x720 and of 1920x1080.
2. Samples a second to batches that are ready for the device, two cores: the DataLoader with two
   workers against rows that Ray Data brought into the object store, as bytes (decoded anew in
   each epoch) and as canvases. Whole epochs in turn; starting workers and Ray, and loading, are
   left out on both sides and told apart.

Images are made for it: cuttings of the JPEGs below `--folder`, else drawn ones with detail. A Ray
of its own is started on loopback and ended. Ends with one JSON line.
"""

import argparse
import json
import logging
import os
import secrets
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import torch
from classic import ClassicPoses, Recipe as ClassicRecipe, loader
from meters import Peak, cpu_s, descendants, private_mb
from photos import write_photos

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.data import records
from hrnet_ray.data.annotations import AnnotationSet
from hrnet_ray.data.batch import (
    AugmentationPipelineConfig,
    RawTrainBatch,
    augment_batch,
    to_raw_train_batch,
)
from hrnet_ray.data.images.codec import cv2, decode_image
from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.skeletons import MPII

SIZES_HW = {"720p": (720, 1280), "1080p": (1080, 1920)}
INPUT_HW, HEATMAP_HW, SIGMA = (256, 256), (64, 64), 2
BATCH, PART = 32, 8
CORES = 2
CPU = torch.device("cpu")
RECIPE = AugmentationPipelineConfig(
    skeleton=MPII, input_hw=INPUT_HW, padding=1.25, augmentation=AugmentationConfig(), seed=0
)


@dataclass(frozen=True, kw_only=True)
class Amount:
    """How much is measured."""

    pictures: dict[str, int]
    cpu_rounds: int
    rate_rounds: int
    round_s: float


FULL = Amount(pictures={"720p": 128, "1080p": 32}, cpu_rounds=24, rate_rounds=7, round_s=3.0)
QUICK = Amount(pictures={"720p": 48, "1080p": 16}, cpu_rounds=8, rate_rounds=3, round_s=1.5)


def classic_poses(labels: AnnotationSet, folder: Path) -> ClassicPoses:
    """The baseline over these instances."""
    return ClassicPoses(labels.instances, folder, ClassicRecipe(flip_order=MPII.flip_order))


# 1. CPU time of a sample.


def cpu_ratio(labels: AnnotationSet, folder: Path, name: str, *, rounds: int) -> float:
    """Print both sides' CPU milliseconds, and return how many times less this project's are."""
    poses = classic_poses(labels, folder)
    found: dict[str, list[float]] = {"classic": [], "rows": [], "device": []}
    for number in range(rounds):
        places = [(number * BATCH + at) % len(poses) for at in range(BATCH)]
        read = [(folder / poses.instances[at].image).read_bytes() for at in places]
        table = stored_rows(poses, places, read)
        # Short turns: other work on the machine comes and goes.
        for first in range(0, BATCH, PART):
            part = slice(first, first + PART)
            began = time.process_time()
            for at, data in zip(places[part], read[part], strict=True):
                poses.sample(at, data)
            found["classic"].append((time.process_time() - began) / PART)
            began = time.process_time()
            batch = to_raw_train_batch(records.decode_train_batch(table, canvas_px=records.CANVAS_PX), CPU)
            found["rows"].append((time.process_time() - began) / BATCH)
        began = time.process_time()
        on_device(batch, epoch=number)
        found["device"].append((time.process_time() - began) / BATCH)
    ms = {side: 1e3 * statistics.median(seconds) for side, seconds in found.items()}
    ratio = ms["classic"] / ms["rows"]
    in_all = ms["classic"] / (ms["rows"] + ms["device"])
    print(
        f"  {name:>6}   classic {ms['classic']:6.2f}   rows {ms['rows']:5.2f}   {ratio:5.1f}x less"
        f"   (+ {ms['device']:.2f} where this CPU is the device: {in_all:.1f}x less in all)",
        flush=True,
    )
    return ratio


def stored_rows(poses: ClassicPoses, places: Sequence[int], read: Sequence[bytes]) -> pa.Table:
    """The training rows of some instances, as `prepare` stores them."""
    made = []
    for at, data in zip(places, read, strict=True):
        picture = decode_image(data)
        assert picture is not None
        made.append(records.build_cropped_record(poses.instances[at], data, picture, canvas_px=records.CANVAS_PX))
    return pa.Table.from_pylist(made, schema=records.build_arrow_schema(len(MPII)))


def on_device(batch: RawTrainBatch, *, epoch: int) -> None:
    """What the device does before a training step can begin."""
    made = augment_batch(batch, RECIPE, epoch=epoch)
    encode_heatmaps(made.crop_xy, made.visible, input_hw=INPUT_HW, heatmap_hw=HEATMAP_HW, sigma=SIGMA)


# 2. Samples a second.


@dataclass
class Side:
    """One way to batches, and the processes that work for it beside this one."""

    name: str
    epoch: Callable[[int], Iterator[int]]
    """Yields the size of each batch of an epoch as it gets ready."""
    processes: Sequence[psutil.Process]
    workers: Sequence[psutil.Process]
    """Those of them whose memory counts."""
    epochs: int = 1
    peak: Peak | None = None
    per_s: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)

    def warm(self) -> None:
        """One epoch that does not count, for which this process holds nothing of later sides."""
        with Peak(self.workers) as peak:
            sum(self.epoch(0))
        self.peak = peak

    def run(self, least_s: float) -> None:
        """Whole epochs for at least so long."""
        samples, cpu, began = 0, cpu_s(self.processes), time.perf_counter()
        while (took := time.perf_counter() - began) < least_s:
            samples += sum(self.epoch(self.epochs))
            self.epochs += 1
        took = time.perf_counter() - began
        self.per_s.append(samples / took)
        self.cpu_ms.append(1e3 * (cpu_s(self.processes) - cpu) / samples)

    def line(self) -> str:
        own, others = (self.peak.own_mb, self.peak.others_mb) if self.peak else (0, 0)
        return (
            f"  {self.name:20s} {statistics.median(self.per_s):7.0f} samples/s"
            f"   CPU {statistics.median(self.cpu_ms):5.2f} ms a sample"
            f"   peak private memory {own:4.0f} MB here, {others:4.0f} MB in its workers"
        )


def classic_side(labels: AnnotationSet, folder: Path) -> Side:
    """The DataLoader; its workers are running when this returns."""
    batches = loader(classic_poses(labels, folder), size=BATCH, workers=CORES)
    next(iter(batches))
    workers = descendants()

    def epoch(_: int) -> Iterator[int]:
        for crops, _heatmaps, _weights in batches:
            yield len(crops)

    return Side(f"classic, {CORES} workers", epoch, workers, workers)


@contextmanager
def own_ray(temp: Path) -> Iterator[None]:
    """A Ray that nobody else sees, gone afterwards."""
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ |= {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # Ray binds 127.0.0.1 only, on Linux too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }
    import ray

    from hrnet_ray.distributed.cluster.resources import configure_ray_data

    ray.init(
        address="local",
        num_cpus=CORES,
        object_store_memory=2 * 2**30,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(temp),
    )
    configure_ray_data()
    try:
        yield
    finally:
        ray.shutdown()


def ray_sides(labels: AnnotationSet, folder: Path, out: Path) -> list[Side]:
    """The same rows in Ray's object store: as bytes, and as canvases."""
    from hrnet_ray.config import DataConfig
    from hrnet_ray.data.dataset_preparation import prepare_dataset
    from hrnet_ray.data.splits import SplitSource
    from hrnet_ray.distributed.data import object_store
    from hrnet_ray.distributed.data.data_loader import WorkerDataLoader

    few = replace(labels, instances=labels.instances[:BATCH])
    sources = {"train": SplitSource(labels, folder), "val": SplitSource(few, folder)}
    manifest = prepare_dataset(sources, out=out, name="benchmark")
    data = DataConfig(root=str(out), input_hw=INPUT_HW)
    loaded = {}
    for name, decoded in (("rows, not cached", False), ("rows, cached", True)):
        began = time.perf_counter()
        loaded[name] = object_store.load_into_object_store(manifest, data, decoded=decoded)
        took = time.perf_counter() - began
        stored_mb = sum(_bytes_of(block) for block in loaded[name]["train"].block_refs) / 1e6
        print(f"  {name}: {stored_mb:.0f} MB in the object store, loaded in {took:.1f} s")
    processes = descendants()
    workers = [process for process in processes if process.name().startswith("ray::")]
    daemons = [process for process in processes if process not in workers]
    print(f"  Ray's own daemons: {private_mb(daemons):.0f} MB of private memory, not in the peaks")
    sides = []
    for name, stored in loaded.items():
        feed = WorkerDataLoader(stored, data, canvas_px=manifest.canvas_px, device=CPU, threads=CORES)

        def epoch(number: int, feed: WorkerDataLoader = feed) -> Iterator[int]:
            for batch in feed.iter_train_batches(batch_size=BATCH, seed=0, epoch=number):
                yield len(batch.ids)

        sides.append(Side(name, epoch, processes, workers))
    return sides


def _bytes_of(block: Any) -> int:
    import ray
    from ray.data.block import BlockAccessor

    return BlockAccessor.for_block(ray.get(block)).size_bytes()


def rate_ratios(labels: AnnotationSet, folder: Path, work: Path, amount: Amount) -> tuple[float, float]:
    """Print each side's rate; return how many times faster rows are, not cached and cached."""
    classic = classic_side(labels, folder)  # forks its workers before Ray's threads are there
    classic.warm()
    with own_ray(work / "ray"):
        uncached, cached = ray_sides(labels, folder, work / "prepared")
        sides = (classic, uncached, cached)
        uncached.warm()
        cached.warm()
        for _ in range(amount.rate_rounds):
            for side in sides:
                side.run(amount.round_s)
    for side in sides:
        print(side.line())
    return _ratio(uncached, classic), _ratio(cached, classic)


def _ratio(ours: Side, theirs: Side) -> float:
    return statistics.median(a / b for a, b in zip(ours.per_s, theirs.per_s, strict=True))


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description="Rows against the published loader.")
    parser.add_argument("--folder", type=Path, help="with *.jpg in it; else images are drawn")
    parser.add_argument("--quick", action="store_true", help="a first answer in under 2 minutes")
    args = parser.parse_args()
    amount = QUICK if args.quick else FULL
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory(prefix="ingest-") as temp:
        figures = measure(Path(temp), args.folder, amount)
    print(json.dumps({name: round(value, 2) for name, value in figures.items()}))


def measure(work: Path, folder: Path | None, amount: Amount) -> dict[str, float]:
    """Make the images, measure, print."""
    made = {}
    for name, size_hw in SIZES_HW.items():
        count = amount.pictures[name]
        made[name] = write_photos(work / name, count=count, size_hw=size_hw, folder=folder)
        kb = sum(path.stat().st_size for path in (work / name).glob("*.jpg")) / count / 1e3
        people = len(made[name].instances)
        print(f"{count} JPEGs of {size_hw[1]}x{size_hw[0]}, {kb:.0f} kB each, {people} people")
    print(f"\nCPU of a sample, one thread, ms (medians of {amount.cpu_rounds} batches of {BATCH})")
    figures = {
        f"cpu_ratio_{name}": cpu_ratio(labels, work / name, name, rounds=amount.cpu_rounds)
        for name, labels in made.items()
    }
    print(
        "  classic: decode of the whole image, RGB, mirror, warp, normalise, heatmaps; no collate"
        "\n  rows: decode_rows (regions into one array of canvases, labels) and to_canvases"
        "\n  the device: warp, mirror, normalise, heatmaps of the whole batch"
        "\n  nowhere: reading files; nor, for rows, `prepare`, which happens once"
    )
    print(f"\nReady batches of {BATCH} at 720p, {CORES} cores ({amount.rate_rounds} rounds in turn)")
    uncached, cached = rate_ratios(made["720p"], work / "720p", work, amount)
    return figures | {"uncached_ratio": uncached, "cached_ratio": cached}


if __name__ == "__main__":
    main()

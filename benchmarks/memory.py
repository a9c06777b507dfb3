"""Whether a training needs more memory for more rows, and how long an epoch takes to begin.

    python benchmarks/memory.py

The same training (a tiny net, two workers, images decoded anew in each epoch) on 2,000 and on
20,000 rows. Counted is the private memory (USS) of the driver and of all Ray workers together,
sampled all the time; the object store, whose size is fixed when Ray starts, is not in it. A cached
set of 2,000 rows tells how long it takes from asking for an epoch to its first batch. Ends with one
JSON line.
"""

import argparse
import json
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import psutil
import ray
import torch

from hrnet_ray.config import (
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    ModelConfig,
    OptimizerConfig,
)
from hrnet_ray.data.dataset_preparation import SplitSource, prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.cluster.resources import init_ray
from hrnet_ray.distributed.data.data_loader import WorkerDataLoader
from hrnet_ray.distributed.data.object_store import load_into_object_store
from hrnet_ray.distributed.training.train import train_experiment

SIZES = (2_000, 20_000)
VAL_ROWS = 64
PICTURE_HW = (300, 400)
EPOCHS_TIMED = 20
SAMPLE_S = 0.5


class Memory:
    """Samples what the driver and Ray's workers hold for themselves, in bytes."""

    def __init__(self) -> None:
        self.peak = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        driver = psutil.Process()
        while not self._stop.wait(SAMPLE_S):
            family = [driver, *driver.children(recursive=True)]
            self.peak = max(self.peak, sum(map(_private, family)))


def _private(process: psutil.Process) -> int:
    try:
        name = process.name()
        if process.pid != psutil.Process().pid and not name.startswith("ray::"):
            return 0  # Ray's own servers, and whatever a build starts
        return process.memory_full_info().uss
    except psutil.Error:
        return 0


def drawn(root: Path, rows: int) -> DatasetManifest:
    """A data set of `rows` images that share a few files: only their number matters here."""
    images = root / "images"
    images.mkdir(parents=True)
    chance = np.random.default_rng(0)
    for at in range(8):
        small = chance.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        cv2.imwrite(str(images / f"{at}.jpg"), cv2.resize(small, PICTURE_HW[::-1]))
    return prepare_dataset(
        {
            "train": SplitSource(_labels(root / "train.json", rows), images),
            "val": SplitSource(_labels(root / "val.json", VAL_ROWS), images),
        },
        out=root / "set",
        name=f"rows{rows}",
    )


def _labels(path: Path, rows: int):
    height, width = PICTURE_HW
    keypoints = [v for k in range(5) for v in (40 * k + 20, 30 * k + 20, 2)]
    document = {
        "images": [{"id": at, "file_name": f"{at % 8}.jpg", "height": height, "width": width} for at in range(rows)],
        "annotations": [
            {
                "id": at,
                "image_id": at,
                "category_id": 1,
                "bbox": [5, 5, width - 10, height - 10],
                "area": 1.0e5,
                "iscrowd": 0,
                "keypoints": keypoints,
                "num_keypoints": 5,
            }
            for at in range(rows)
        ],
        "categories": [{"id": 1, "name": "dot", "keypoints": list("abcde"), "skeleton": []}],
    }
    path.write_text(json.dumps(document), encoding="utf-8")
    return read_coco(path)


def trained(manifest: DatasetManifest, storage: Path) -> int:
    """The peak of one epoch, in bytes."""
    experiment = ExperimentConfig(
        name=manifest.name,
        data=DataConfig(root=str(manifest.root), input_hw=(64, 64)),
        model=ModelConfig(width=4, modules=(1, 1, 1), blocks=1, stem=8),
        heatmap=HeatmapConfig(sigma=1.0),
        optim=OptimizerConfig(lr=1e-3, epochs=1, milestones=(), batch_size=32),
        evaluation=EvaluationConfig(batch_size=32),
    )
    with Memory() as memory:
        train_experiment(experiment, ClusterConfig(num_workers=2, device="cpu", storage_path=str(storage)))
    return memory.peak


def epoch_starts(manifest: DatasetManifest) -> list[float]:
    """Seconds from asking for an epoch to its first batch, with the rows cached."""
    data = DataConfig(root=str(manifest.root))
    stored = load_into_object_store(manifest, data, decoded=True)
    feed = WorkerDataLoader(stored, data, canvas_px=manifest.canvas_px, device=torch.device("cpu"))
    seconds = []
    for epoch in range(EPOCHS_TIMED):
        began = time.perf_counter()
        batches = feed.iter_train_batches(batch_size=32, seed=0, epoch=epoch)
        next(batches)
        seconds.append(time.perf_counter() - began)
        batches.close()
    return seconds


def main() -> None:
    """Measure, print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        init_ray(ClusterConfig())
        from hrnet_ray.distributed.data import object_store

        sets = {rows: drawn(root / str(rows), rows) for rows in SIZES}
        starts = epoch_starts(sets[SIZES[0]])
        print(
            f"{SIZES[0]:,} cached rows: the first epoch begins after {starts[0]:.3f} s, others "
            f"after {np.median(starts):.3f} s (median), {max(starts[1:]):.3f} s (most)"
        )
        object_store.OBJECT_STORE_FRAC = 0.0  # both the same way: decoded anew in each epoch
        trained(replace(sets[SIZES[0]], name="warm"), root / "runs")
        peaks = {rows: trained(manifest, root / "runs") for rows, manifest in sets.items()}
        for rows, peak in peaks.items():
            print(f"{rows:>6,} rows: peak {peak / 1e6:,.0f} MB in driver and workers")
        ray.shutdown()
    growth = peaks[SIZES[1]] / peaks[SIZES[0]] - 1
    figures = {
        "memory_growth": growth,
        "first_epoch_start_s": starts[0],
        "epoch_start_s": float(np.median(starts)),
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()

#!/usr/bin/env python
"""Learn a handful of real images by heart: is the whole path right, from file to score?

    python experiments/learn_by_heart.py --folder FOLDER

FOLDER holds `atrw/test_atrw.json` and `mpii/test_mpii.json` with their images beside them (the
sample files of public pose test suites). They go through prepare, Ray Data, two Ray Train workers
and the exact evaluation, on the same images; a path that mixes up frames, sides or rows cannot
score well. Ends with 0 when OKS AP reaches 0.90 and PCKh_0.5 reaches 0.95, else with 1.

Heads are measured from upper_neck to head_top, because this sample has no gt_valid.mat.
"""

import json
from dataclasses import dataclass, field, replace
from itertools import cycle, islice
from pathlib import Path

from hrnet_ray.cli import run_script
from hrnet_ray.cli.prepare import CocoArgs, MpiiArgs, run as prepare
from hrnet_ray.cli.smoke import SMALL_MODEL_CONFIG
from hrnet_ray.config import (
    AugmentationConfig,
    ClusterConfig,
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    HeatmapConfig,
    OptimizerConfig,
)
from hrnet_ray.distributed.training.train import train_experiment

ROWS = 64  # the training file repeats the images, so that each batch of each worker has several
EPOCHS = 34
WANTED = {"atrw": 0.90, "mpii": 0.95}

BASE = ExperimentConfig(
    data=DataConfig(input_hw=(64, 96)),
    model=SMALL_MODEL_CONFIG,
    heatmap=HeatmapConfig(sigma=1.0, quantize_center=False),
    augment=AugmentationConfig(scale_factor=0.0, rotation_prob=0.0, flip_prob=0.0),
    optim=OptimizerConfig(lr=3e-3, schedule="cosine", epochs=EPOCHS, batch_size=8),
    # Never mirrored in training, so not in the test either.
    evaluation=EvaluationConfig(decode="dark", flip_test=False, val_interval=5),
)


@dataclass(frozen=True, kw_only=True)
class Args:
    """Learn real images by heart."""

    folder: Path
    """With atrw/ and mpii/ in it."""
    cluster: ClusterConfig = field(default_factory=lambda: ClusterConfig(num_workers=2))


def main(args: Args) -> int:
    """Learn both samples; 0 when both are known."""
    reached = {name: _learn(name, args) for name in WANTED}
    for name, value in reached.items():
        print(f"{name}: {value:.3f} (wanted {WANTED[name]:.2f})")
    return int(any(value < WANTED[name] for name, value in reached.items()))


def _learn(name: str, args: Args) -> float:
    images = args.folder / name
    annotations = images / f"test_{name}.json"
    out = Path(args.cluster.storage_path) / "learn-by-heart" / name
    out.mkdir(parents=True, exist_ok=True)
    repeated = out / "repeated.json"
    repeated.write_text(json.dumps(_repeated(json.loads(annotations.read_text()))))
    source = CocoArgs if name == "atrw" else MpiiArgs
    prepare(
        source(
            images=images,
            annotations=repeated,
            val_annotations=annotations,
            out=out,
            max_image_size=176,
        )
    )
    experiment = replace(BASE, name="learn-by-heart", data=replace(BASE.data, root=str(out.absolute())))
    return train_experiment(experiment, args.cluster).best_score


def _repeated(document: dict | list) -> dict | list:
    """The same annotations several times over, in turn, each copy with ids of its own."""
    if isinstance(document, list):
        return list(islice(cycle(document), ROWS))
    copies = islice(cycle(document["annotations"]), ROWS)
    numbered = [copy | {"id": number} for number, copy in enumerate(copies, start=1)]
    return document | {"annotations": numbered}


if __name__ == "__main__":
    run_script(Args, main, name="experiments/learn_by_heart.py")

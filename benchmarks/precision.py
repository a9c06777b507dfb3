"""Does bf16 cost accuracy? The same small trainings in fp32 and in bf16, three seeds each.

    python benchmarks/precision.py            # about 10 minutes on two cores
    python benchmarks/precision.py --quick    # runs the path; its scores mean little

Drawn tigers, a small HRNet, the demo's recipe; one seed decides the weights, the order and the
augmentation of both trainings of a pair. Each pair's two trainings run side by side, with a thread
each. Every net is scored in fp32 and in bf16, so that it can be told where a difference comes from.
Ends with one JSON line; `within_noise` says whether the difference of the means is smaller than
what the seeds alone explain (Welch's t below its 5 % bound).
"""

import argparse
import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, variance

import numpy as np
import torch
from scipy import stats

from hrnet_ray.cli.demo import BASE_CONFIG, MAX_IMAGE_SIZE_PX
from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data import records
from hrnet_ray.data.batch import TrainBatch, augment_batch, to_eval_batch, to_raw_train_batch
from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.manifest import DatasetManifest, read_manifest, read_split
from hrnet_ray.data.sampler import batch_indices, shuffle_row_indices
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.data.synthetic.datasets import write_tiger_dataset
from hrnet_ray.inference.predict_loop import predict_batches
from hrnet_ray.inference.predictor import build_decode_config
from hrnet_ray.metrics.validation import compute_validation_metrics
from hrnet_ray.models.fused_batchnorm import convert_to_fused_batchnorm
from hrnet_ray.skeletons import ATRW
from hrnet_ray.training.builders import (
    build_augmentation_config,
    build_model,
    build_model_spec,
    build_target_config,
)
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import build_lr_scheduler, build_optimizer

SEEDS = 3
CPU = torch.device("cpu")
BF16 = {"fp32": False, "bf16": True}


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seeds", type=int, default=SEEDS)
    args = parser.parse_args()
    pictures, epochs = (8, 1) if args.quick else (240, 8)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tigers(root, train=pictures, val=max(4, pictures // 4))
        tasks = [(root, precision, seed, epochs) for seed in range(args.seeds) for precision in BF16]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            scores = list(pool.map(trained, *zip(*tasks, strict=True)))
    found = {
        f"{learnt}/{scored}": [s[scored] for s, task in zip(scores, tasks, strict=True) if task[1] == learnt]
        for learnt in BF16
        for scored in BF16
    }
    print("\ntrained/scored   OKS AP by seed               mean    spread")
    for name, values in found.items():
        shown = "  ".join(f"{value:.4f}" for value in values)
        print(f"{name:15}  {shown:27}  {fmean(values):.4f}  {variance(values) ** 0.5:.4f}")
    fp32, bf16 = found["fp32/fp32"], found["bf16/bf16"]
    difference, bound = fmean(bf16) - fmean(fp32), noise(fp32, bf16)
    within = abs(difference) <= bound
    verdict = "within" if within else "beyond"
    print(f"bf16 - fp32: {difference:+.4f}, {verdict} the seeds' noise of {bound:.4f}")
    figures = {"difference": round(difference, 4), "noise": round(bound, 4)}
    print(json.dumps(figures | {"within_noise": within}))


def noise(one: Sequence[float], other: Sequence[float]) -> float:
    """The difference of means that two such samples show in 1 of 20 cases by chance (Welch)."""
    parts = [variance(values) / len(values) for values in (one, other)]
    if sum(parts) == 0:
        return 0.0
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True)
    )
    return float(stats.t.ppf(0.975, freedom)) * math.sqrt(sum(parts))


def tigers(root: Path, *, train: int, val: int) -> DatasetManifest:
    """Draw and prepare the demo's tigers."""
    raw = root / "pictures"
    write_tiger_dataset(raw, num_train=train, num_val=val, seed=0)
    return prepare_dataset(
        {
            split: SplitSource(
                read_coco(raw / "annotations" / f"keypoint_{split}.json", skeleton=ATRW),
                raw / "images" / split,
            )
            for split in ("train", "val")
        },
        out=root,
        name="tigers",
        canvas_px=MAX_IMAGE_SIZE_PX,
    )


def trained(root: Path, precision: str, seed: int, epochs: int) -> dict[str, float]:
    """Train one net and score it in both precisions: OKS AP."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    manifest = read_manifest(root)
    experiment = replace(BASE_CONFIG, seed=seed, optim=replace(BASE_CONFIG.optim, epochs=epochs))
    model = build_model(experiment, manifest)
    if BF16[precision]:
        convert_to_fused_batchnorm(model)  # as a worker does
    canvases = records.decode_train_batch(read_split(manifest, "train"), canvas_px=MAX_IMAGE_SIZE_PX)
    count, size = len(canvases["id"]), experiment.optim.batch_size
    optimizer = build_optimizer(model, optimizer_name="adam", lr=experiment.optim.lr, weight_decay=0.0)
    scheduler = build_lr_scheduler(
        optimizer,
        schedule=experiment.optim.schedule,
        milestones=(),
        epochs=epochs,
        warmup_steps=experiment.optim.warmup_steps,
        steps_per_epoch=len(batch_indices(np.arange(count), batch_size=size, num_workers=1)),
    )
    for epoch in range(epochs):
        loss = train_epoch(
            model,
            batches(canvases, experiment, manifest, epoch=epoch),
            optimizer,
            scheduler,
            target=build_target_config(experiment),
            bf16=BF16[precision],
        )
    found = {scored: oks_ap(model, experiment, manifest, bf16=BF16[scored]) for scored in BF16}
    print(f"{precision} seed {seed}: loss {loss:.3e}, {found}", flush=True)
    return found


def batches(
    canvases: Mapping[str, np.ndarray],
    experiment: ExperimentConfig,
    manifest: DatasetManifest,
    *,
    epoch: int,
) -> Iterator[TrainBatch]:
    """An epoch, as a worker alone would have it."""
    recipe = build_augmentation_config(experiment, manifest)
    order = shuffle_row_indices(len(canvases["id"]), seed=experiment.seed, epoch=epoch)
    for step in batch_indices(order, batch_size=experiment.optim.batch_size, num_workers=1):
        part = {name: column[step] for name, column in canvases.items()}
        yield augment_batch(to_raw_train_batch(part, CPU), recipe, epoch=epoch)


def oks_ap(model: torch.nn.Module, experiment: ExperimentConfig, manifest: DatasetManifest, *, bf16: bool) -> float:
    """The validation score."""
    table = read_split(manifest, "val")
    data = experiment.data
    crops = records.decode_eval_batch(table, input_hw=data.input_hw, padding=data.padding)
    found = predict_batches(
        model,
        [to_eval_batch(crops, CPU)],
        decoding=build_decode_config(build_model_spec(experiment, manifest, {})),
        bf16=bf16,
    )
    return compute_validation_metrics(found, records.get_label_columns(table), manifest.skeleton).primary_value


if __name__ == "__main__":
    from as_workers import start_again

    start_again()
    main()

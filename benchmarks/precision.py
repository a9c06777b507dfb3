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

from hrnet_ray.cli.demo import BASE, CANVAS_PX
from hrnet_ray.config import Experiment
from hrnet_ray.data import records
from hrnet_ray.data.batch import PoseBatch, augmented, to_canvases, to_crops
from hrnet_ray.data.dataset_preparation import prepare
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.manifest import Manifest, read_manifest, read_table
from hrnet_ray.data.sampler import epoch_order, training_steps
from hrnet_ray.data.splits import Source
from hrnet_ray.data.synthetic.datasets import write_tigers
from hrnet_ray.inference.predict_loop import predict
from hrnet_ray.metrics.validation import score
from hrnet_ray.models.fused_batchnorm import fuse_norms
from hrnet_ray.skeletons import ATRW
from hrnet_ray.training.builders import build_model, decoding_of, recipe_of, target_of
from hrnet_ray.training.engine import train_epoch
from hrnet_ray.training.optim import make_optimizer, make_scheduler

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
        tasks = [
            (root, precision, seed, epochs) for seed in range(args.seeds) for precision in BF16
        ]
        with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
            scores = list(pool.map(trained, *zip(*tasks, strict=True)))
    found = {
        f"{learnt}/{scored}": [
            s[scored] for s, task in zip(scores, tasks, strict=True) if task[1] == learnt
        ]
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


def tigers(root: Path, *, train: int, val: int) -> Manifest:
    """Draw and prepare the demo's tigers."""
    raw = root / "pictures"
    write_tigers(raw, train=train, val=val, seed=0)
    return prepare(
        {
            split: Source(
                read_coco(raw / "annotations" / f"keypoint_{split}.json", skeleton=ATRW),
                raw / "images" / split,
            )
            for split in ("train", "val")
        },
        out=root,
        name="tigers",
        canvas_px=CANVAS_PX,
    )


def trained(root: Path, precision: str, seed: int, epochs: int) -> dict[str, float]:
    """Train one net and score it in both precisions: OKS AP."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    manifest = read_manifest(root)
    experiment = replace(BASE, seed=seed, optim=replace(BASE.optim, epochs=epochs))
    model = build_model(experiment, manifest)
    if BF16[precision]:
        fuse_norms(model)  # as a worker does
    canvases = records.decode_rows(read_table(manifest, "train"), canvas_px=CANVAS_PX)
    count, size = len(canvases["id"]), experiment.optim.batch_size
    optimizer = make_optimizer(model, algorithm="adam", lr=experiment.optim.lr, weight_decay=0.0)
    scheduler = make_scheduler(
        optimizer,
        schedule=experiment.optim.schedule,
        milestones=(),
        epochs=epochs,
        warmup_steps=experiment.optim.warmup_steps,
        steps_per_epoch=len(training_steps(np.arange(count), size=size, workers=1)),
    )
    for epoch in range(epochs):
        loss = train_epoch(
            model,
            batches(canvases, experiment, manifest, epoch=epoch),
            optimizer,
            scheduler,
            target=target_of(experiment),
            bf16=BF16[precision],
        )
    found = {scored: oks_ap(model, experiment, manifest, bf16=BF16[scored]) for scored in BF16}
    print(f"{precision} seed {seed}: loss {loss:.3e}, {found}", flush=True)
    return found


def batches(
    canvases: Mapping[str, np.ndarray], experiment: Experiment, manifest: Manifest, *, epoch: int
) -> Iterator[PoseBatch]:
    """An epoch, as a worker alone would have it."""
    recipe = recipe_of(experiment, manifest)
    order = epoch_order(len(canvases["id"]), seed=experiment.seed, epoch=epoch)
    for step in training_steps(order, size=experiment.optim.batch_size, workers=1):
        part = {name: column[step] for name, column in canvases.items()}
        yield augmented(to_canvases(part, CPU), recipe, epoch=epoch)


def oks_ap(
    model: torch.nn.Module, experiment: Experiment, manifest: Manifest, *, bf16: bool
) -> float:
    """The validation score."""
    table = read_table(manifest, "val")
    data = experiment.data
    crops = records.decode_exact(table, input_hw=data.input_hw, padding=data.padding)
    found = predict(
        model, [to_crops(crops, CPU)], decoding=decoding_of(experiment, manifest), bf16=bf16
    )
    return score(found, records.labels_of(table), manifest.skeleton).value


if __name__ == "__main__":
    from as_workers import start_again

    start_again()
    main()

"""`hrnet-ray evaluate`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from hrnet_ray.data.labels import check_folder, make_folder
from hrnet_ray.data.manifest import read_manifest, read_table
from hrnet_ray.data.rows import labels_of
from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_folder import load_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.learning.scores import Scores, coco_results, score


@dataclass(frozen=True, kw_only=True)
class Args:
    """Score a model on the validation rows of a prepared data set, with their true boxes."""

    model: Path
    """A run's model/ folder."""
    data: Path
    """A prepared data set."""
    decode: Literal["argmax", "quarter", "dark"] | None = None
    """By default as the model was trained to be read."""
    flip_test: bool | None = None
    """By default as the model was trained to be read."""
    out: Path | None = None
    """Folder for scores.json and predictions.coco.json."""


def run(args: Args) -> None:
    """Predict every row once, score once, print the table."""
    check_folder(args.data, "--data")
    manifest = read_manifest(args.data)
    model, spec = load_model(args.model)
    if spec.skeleton.keypoints != manifest.skeleton.keypoints:
        raise DataError(
            "a model of other keypoints than the data",
            f"model: {', '.join(spec.skeleton.keypoints)} | "
            f"data: {', '.join(manifest.skeleton.keypoints)}",
            "use a model that was trained on this skeleton",
        )
    spec = replace(
        spec,
        decode=args.decode or spec.decode,
        flip_test=spec.flip_test if args.flip_test is None else args.flip_test,
    )
    table = read_table(manifest, "val")
    truth = labels_of(table)
    found = Predictor(model, spec).predict_table(table)
    scores = score(found, truth, manifest.skeleton)
    print(
        f"{manifest.name} val: {table.num_rows:,} instances, true boxes, decode {spec.decode}, "
        f"flip test {'on' if spec.flip_test else 'off'}"
    )
    print(as_table(scores))
    if args.out:
        make_folder(args.out, "--out")
        (args.out / "scores.json").write_text(json.dumps(vars(scores), indent=2))
        (args.out / "predictions.coco.json").write_text(json.dumps(coco_results(found, truth)))


def as_table(scores: Scores) -> str:
    """Scores in two aligned blocks, for a terminal."""
    blocks = (scores.summary, scores.per_keypoint)
    return "\n\n".join(
        "\n".join(f"  {name:<18}{value:>9.4f}" for name, value in block.items()) for block in blocks
    )

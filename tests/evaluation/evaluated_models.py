"""Small datasets and models with random weights, for tests of evaluations."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch

from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.data.synthetic.datasets import write_people_dataset, write_tiger_dataset
from hrnet_ray.evaluation.model_evaluation import EvalModel
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.skeletons import ATRW, Skeleton
from tests.small_models import make_random_model, make_spec

EASY = Skeleton(
    name="easy",
    keypoints=ATRW.keypoints,
    bones=ATRW.bones,
    oks_sigmas=(0.4,) * 15,
    other_oks_sigmas={"easier": (0.8,) * 15},
)
"""Skeleton with OKS sigmas so large that random weights score above 0."""


def write_tigers(root: Path, *, val: int = 8) -> DatasetManifest:
    """Write and prepare a dataset with one to three tigers in each of `val` images."""
    write_tiger_dataset(root / "raw", num_train=1, num_val=val, size_hw=(90, 120))
    sources = {
        split: SplitSource(
            read_coco(root / "raw" / "annotations" / f"keypoint_{split}.json", skeleton=EASY),
            root / "raw" / "images" / split,
        )
        for split in ("train", "val")
    }
    return prepare_dataset(sources, out=root / "tigers", name="tigers", canvas_px=64, rows_per_shard=5)


def write_people(root: Path, *, val: int = 5) -> DatasetManifest:
    """Write and prepare an MPII dataset with head boxes; the last two people share an image."""
    write_people_dataset(root / "raw", num_train=1, num_val=val)
    annot, images = root / "raw" / "annot", root / "raw" / "images"
    records = json.loads((annot / "valid.json").read_text())
    records[-1]["image"] = records[-2]["image"]
    (annot / "valid.json").write_text(json.dumps(records))
    sources = {
        "train": SplitSource(read_mpii(annot / "train.json"), images),
        "val": SplitSource(read_mpii(annot / "valid.json", gt_valid=annot / "gt_valid.mat"), images),
    }
    return prepare_dataset(sources, out=root / "people", name="people", canvas_px=64)


def write_model(folder: Path, skeleton: Skeleton, *, seed: int = 0, **changed: object) -> Path:
    spec = make_spec(skeleton, **changed)
    save_model(folder, make_random_model(spec, seed=seed), spec)
    return folder


def make_eval_model(skeleton: Skeleton, *, seed: int = 0, **changed: object) -> EvalModel:
    spec = make_spec(skeleton, **changed)
    model = make_random_model(spec, seed=seed)
    return EvalModel(name=f"net {seed}", model=model, spec=spec, device=torch.device("cpu"))


def corrupt_rows(manifest: DatasetManifest, *rows: int, split: str = "val") -> list[tuple[int, str]]:
    """Change a byte in the stored images of some rows; return their ids and image names."""
    start, changed = 0, []
    for shard in manifest.get_shards(split):
        path = Path(str(manifest.root)) / shard.file
        content = pq.read_table(path).to_pylist()
        for at in set(rows) & set(range(start, start + len(content))):
            row = content[at - start]
            data = bytearray(row["picture"])
            data[len(data) // 2] ^= 0xFF
            row["picture"] = bytes(data)
            changed.append((row["id"], row["image"]))
        table = pq.read_table(path)
        pq.write_table(table.from_pylist(content, schema=table.schema), path, compression="none")
        start += len(content)
    return sorted(changed)

"""Small data sets and models of random weights, for the tests of `evaluate`."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import torch
from torch import nn

from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.formats.coco import read_coco
from hrnet_ray.data.formats.mpii import read_mpii
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.data.synthetic.datasets import write_people_dataset, write_tiger_dataset
from hrnet_ray.evaluation.model_evaluation import EvalModel
from hrnet_ray.inference.model_package import ModelSpec, save_model
from hrnet_ray.models import HRNet
from hrnet_ray.skeletons import ATRW, Skeleton

EASY = Skeleton(
    name="easy",
    keypoints=ATRW.keypoints,
    bones=ATRW.bones,
    oks_sigmas=(0.4,) * 15,
    other_oks_sigmas={"easier": (0.8,) * 15},
)
"""Sigmas so wide that even random weights find something."""


def write_easy_tigers(root: Path, *, val: int = 8) -> DatasetManifest:
    """One to three tigers in each of `val` images."""
    write_tiger_dataset(root / "raw", num_train=1, num_val=val, size_hw=(90, 120))
    sources = {
        split: SplitSource(
            read_coco(root / "raw" / "annotations" / f"keypoint_{split}.json", skeleton=EASY),
            root / "raw" / "images" / split,
        )
        for split in ("train", "val")
    }
    return prepare_dataset(sources, out=root / "tigers", name="tigers", canvas_px=64, rows_per_shard=5)


def write_some_people(root: Path, *, val: int = 5) -> DatasetManifest:
    """People in the form of MPII, with head boxes; the last two are in one image."""
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


def spec_of(skeleton: Skeleton, **changed: object) -> ModelSpec:
    values = {
        "skeleton": skeleton,
        "width": 8,
        "modules": (1, 1, 1),
        "blocks": 1,
        "stem": 8,
        "input_hw": (32, 32),
        "padding": 1.25,
        "sigma": 1.0,
        "decode": "quarter",
        "flip_test": True,
        "shift_heatmap": True,
    }
    return ModelSpec(**{**values, **changed})


def lively_net(spec: ModelSpec, *, seed: int = 0) -> HRNet:
    """Random weights that see: with the published start, a fresh net is almost blind."""
    torch.manual_seed(seed)
    net = spec.build_model()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    return net.eval()


def write_model(folder: Path, skeleton: Skeleton, *, seed: int = 0, **changed: object) -> Path:
    spec = spec_of(skeleton, **changed)
    save_model(folder, lively_net(spec, seed=seed), spec)
    return folder


def candidate(skeleton: Skeleton, *, seed: int = 0, **changed: object) -> EvalModel:
    spec = spec_of(skeleton, **changed)
    net = lively_net(spec, seed=seed)
    return EvalModel(name=f"net {seed}", model=net, spec=spec, device=torch.device("cpu"))


def rot(manifest: DatasetManifest, *rows: int, split: str = "val") -> list[tuple[int, str]]:
    """Change the images of some rows where they lie; returns their ids and images."""
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

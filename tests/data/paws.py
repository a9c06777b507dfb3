"""Labelled paws in grey images, and the data set that they become."""

import math
from pathlib import Path

import numpy as np

from hrnet_ray.data.annotations import AnnotationSet, PoseInstance, SkippedItem
from hrnet_ray.data.dataset_preparation import prepare_dataset
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.data.splits import SplitSource
from hrnet_ray.data.storage import PathOrUri
from hrnet_ray.skeletons import Skeleton

PAW = Skeleton(name="paw", keypoints=("left_toe", "right_toe"), bones=(("left_toe", "right_toe"),))


def instance(id: int, image: str | None = None, *, x: float = 5.0) -> PoseInstance:
    return PoseInstance(
        id=id,
        image_id=id,
        image=image or f"{id}.png",
        category_id=1,
        box_xywh=(2.0, 2.0, 30.0, 20.0),
        area=600.0,
        head_size=math.nan,
        image_xy=np.array([[x, 6.0], [7.0, 8.0]]),
        visible=np.array([True, True]),
    )


def labels(*instances: PoseInstance, skipped: tuple[SkippedItem, ...] = ()) -> AnnotationSet:
    return AnnotationSet(
        source=Path("/data/paws.json"),
        skeleton=PAW,
        instances=list(instances),
        skipped=list(skipped),
    )


def some(count: int) -> AnnotationSet:
    return labels(*(instance(id) for id in range(count)))


def written(images: PathOrUri, found: AnnotationSet, **changes) -> DatasetManifest:
    """Prepare a data set of training rows only; by default beside the images."""
    out = changes.pop("out", None) or Path(images).parent / "out"
    usual = {"name": "paws", "canvas_px": 16}
    return prepare_dataset({"train": SplitSource(found, images)}, out=out, **{**usual, **changes})


def ids(table) -> list[int]:
    return table["id"].to_pylist()

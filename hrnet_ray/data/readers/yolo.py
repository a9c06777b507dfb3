"""YOLO-pose labels as COCO documents: what Ultralytics, Roboflow and their like write.

A data.yaml names folders of pictures, the number of keypoints and how they mirror. Beside each
picture's `images` folder lies `labels`, with a text file of its name: a line for each instance,
`class x y w h` and `px py` or `px py v` a keypoint, all in shares of the picture.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data import pictures
from hrnet_ray.data.labels import MOST
from hrnet_ray.data.readers import yolo_config
from hrnet_ray.data.readers.yolo_config import Shape
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton

SPLITS = ("train", "val")
UNREAD_WH = (1000, 1000)
"""A size for pictures that have none: they go on, to be named with all that cannot be read."""

Document = dict[str, Any]


@dataclass(frozen=True)
class Yolo:
    """A YOLO-pose data set in COCO's form."""

    skeleton: Skeleton
    images: Path
    """Folder that the file names in the documents start from."""
    documents: dict[str, Document]
    """By split: train, and val where the data.yaml names one."""
    notes: list[str]


def read_yolo(config: Path, *, skeleton: Skeleton | None, progress: Progress) -> Yolo:
    """Read all labels that a data.yaml leads to; without a `skeleton`, it gives the keypoints.

    Raises:
        DataError: the file, a folder that it names, or a line of the labels is not of this form.
    """
    entries = yolo_config.load(config)
    shape = yolo_config.shape_of(entries, config)
    found = {
        split: yolo_config.pictures_of(entries, split, config)
        for split in SPLITS
        if entries.get(split)
    }
    if "train" not in found:
        raise DataError("a data.yaml without training pictures", str(config), "add `train: FOLDER`")
    skeleton, notes = yolo_config.skeleton_of(entries, shape, skeleton, config)
    parents = {path.parent for paths in found.values() for path in paths}
    images = Path(os.path.commonpath(parents))
    parts = {split: _Part(images, shape) for split in found}
    done, many = 0, sum(map(len, found.values()))
    for split, paths in found.items():
        for path in paths:
            parts[split].add(path)
            done += 1
            progress(done, many)
    classes = {class_ for part in parts.values() for class_ in part.classes}
    if not classes:
        raise DataError(
            "no picture has labels",
            f"{_labels_of(found['train'][0])} and {many - 1:,} more are not there, or empty",
            "put `labels` beside each folder `images`, with a text file for each picture",
        )
    categories = yolo_config.categories_of(entries, classes, skeleton)
    return Yolo(
        skeleton,
        images,
        {split: part.document(categories) for split, part in parts.items()},
        [*notes, *_without_use(parts)],
    )


def _without_use(parts: Mapping[str, "_Part"]) -> Iterator[str]:
    """What was there and led to nothing."""
    for split, part in parts.items():
        if part.unlabelled:
            yield f"{split}: {part.unlabelled:,} pictures have no labels: they are not used"
    used = {path for part in parts.values() for path in part.used}
    lonely = sorted(
        path
        for folder in {path.parent for path in used}
        for path in folder.glob("*.txt")
        if path not in used and path.name != "classes.txt"  # which some tools put there
    )
    if lonely:
        names = shortened([path.name for path in lonely])
        yield f"{len(lonely):,} files of labels belong to no picture of these splits: {names}"


class _Part:
    """A split, which grows by a picture at a time."""

    def __init__(self, root: Path, shape: Shape) -> None:
        self.root, self.shape = root, shape
        self.images: list[Document] = []
        self.annotations: list[Document] = []
        self.classes: set[int] = set()
        self.used: set[Path] = set()
        self.unlabelled = 0

    def add(self, path: Path) -> None:
        labels = _labels_of(path)
        width, height = _size_wh(path)
        number = len(self.images) + 1
        name = path.relative_to(self.root).as_posix()
        self.images.append({"id": number, "file_name": name, "width": width, "height": height})
        if not labels.is_file():
            self.unlabelled += 1
            return
        self.used.add(labels)
        for class_, box, points in _lines(labels, self.shape):
            self.classes.add(class_)
            x, y, w, h = (box * [width, height, width, height]).tolist()
            self.annotations.append(
                {
                    "id": len(self.annotations) + 1,
                    "image_id": number,
                    "category_id": class_ + 1,
                    "bbox": [x - w / 2, y - h / 2, w, h],
                    "keypoints": (points * [width, height, 1]).ravel().tolist(),
                }
            )

    def document(self, categories: list[Document]) -> Document:
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }


def _labels_of(path: Path) -> Path:
    """`a/labels/b/1.txt` for `a/images/b/1.jpg`: the last `images` counts."""
    parts = list(path.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def _size_wh(path: Path) -> tuple[int, int]:
    try:
        size = pictures.size_hw(path.read_bytes())
    except OSError:
        size = None
    return (size[1], size[0]) if size else UNREAD_WH


def _lines(path: Path, shape: Shape) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Class, box (middle and size) [4] and keypoints (x, y, v) [K, 3] of each line.

    Raises:
        DataError: a line is not of this form.
    """
    wanted = 5 + shape.keypoints * shape.numbers
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError("labels that cannot be read", f"{path}: {error}", "replace it") from error
    for at, line in enumerate(text.splitlines(), 1):
        if words := line.split():
            try:
                numbers = _numbers(words, wanted)
            except ValueError as error:
                raise DataError(
                    f"a line of labels that cannot be read ({error})",
                    f"{path}: line {at}",
                    f"write `class x y w h` and {shape.numbers} numbers for each of "
                    f"{shape.keypoints} keypoints, as `kpt_shape` says",
                ) from error
            points = numbers[5:].reshape(shape.keypoints, shape.numbers)
            yield int(numbers[0]), numbers[1:5], _with_visibility(points)


def _numbers(words: Sequence[str], wanted: int) -> np.ndarray:
    if len(words) != wanted:
        raise ValueError(f"{len(words)} numbers where {wanted} are wanted")
    numbers = np.array([float(word) for word in words])
    if not (np.abs(numbers) < MOST).all():
        raise ValueError("a number that is none")
    if numbers[0] != int(numbers[0]) or numbers[0] < 0:
        raise ValueError(f"class {words[0]}")
    return numbers


def _with_visibility(points: np.ndarray) -> np.ndarray:
    """Without a third number, a point is labelled unless it is at (0, 0) or left of or above it."""
    if points.shape[1] == 3:
        return points
    there = np.logical_and(points.any(1), points.min(1) >= 0)
    return np.column_stack([points, np.where(there, 2.0, 0.0)])

"""YOLO-pose labels as COCO documents: what Ultralytics, Roboflow and their like write.

A data.yaml names folders of pictures, the number of keypoints and how they mirror. Beside each
picture's `images` folder lies `labels`, with a text file of its name: a line for each instance,
`class x y w h` and `px py` or `px py v` a keypoint, all in shares of the picture.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import MOST, is_file, shown, text_of
from hrnet_ray.data.formats import yolo_config, yolo_files
from hrnet_ray.data.formats.yolo_config import Shape
from hrnet_ray.data.formats.yolo_files import labels_of
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import asks_to_be_turned
from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.skeletons import Skeleton

SPLITS = {"train": ("train",), "val": ("val", "validation")}
"""Splits, and the entries of a data.yaml that may name them."""
UNREAD_WH = (1000, 1000)
"""A size for pictures that have none: they go on, to be named with all that cannot be read."""
SHARES = (-1.0, 2.0)
"""A point may lie outside the picture; one beyond this is no share of it, but pixels."""

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


def read_yolo(
    config: Path, *, skeleton: Skeleton | None, progress: Progress, skip_missing: bool = False
) -> Yolo:
    """Read all labels that a data.yaml leads to; without a `skeleton`, it gives the keypoints.

    Raises:
        DataError: the file, a folder that it names, or a line of the labels is not of this form.
    """
    entries = yolo_config.load(config)
    shape = yolo_config.shape_of(entries, config)
    named = {split: next(filter(entries.get, names), None) for split, names in SPLITS.items()}
    found = {
        split: yolo_files.find(entries, entry, config) for split, entry in named.items() if entry
    }
    if "train" not in found:
        raise DataError("a data.yaml without training pictures", str(config), "add `train: FOLDER`")
    skeleton, notes = yolo_config.skeleton_of(entries, shape, skeleton, config)
    images = Path(os.path.commonpath({path.parent for f in found.values() for path in f.pictures}))
    parts = {split: _Part(images, shape) for split in found}
    done, many = 0, sum(len(one.pictures) for one in found.values())
    for split, one in found.items():
        for path in one.pictures:
            parts[split].add(path)
            done += 1
            progress(done, many)
        parts[split].check(split, one.pictures, config, skip_missing=skip_missing)
    classes = {class_ for part in parts.values() for class_ in part.classes}
    categories = yolo_config.categories_of(entries, classes, skeleton, shape, config)
    return Yolo(
        skeleton,
        images.resolve(),
        {split: part.document(categories) for split, part in parts.items()},
        [*notes, *_without_use(parts), *yolo_files.passed_over(found), *_other_splits(entries)],
    )


def _without_use(parts: Mapping[str, "_Part"]) -> Iterator[str]:
    """Pictures without labels, labels without pictures."""
    for split, part in parts.items():
        if part.missing:
            names = shortened(part.missing)
            yield f"{split}: {len(part.missing):,} listed pictures are not there: {names}"
        if part.unlabelled:
            yield f"{split}: {part.unlabelled:,} pictures have no labels: they are not used"
    places = Counter(path for part in parts.values() for path in part.places)
    lonely = sorted(
        path
        for folder in {path.parent for path in places}
        for path in folder.glob("*.txt")
        if path not in places and path.name != "classes.txt"  # which some tools put there
    )
    if lonely:
        names = shortened([path.name for path in lonely])
        yield f"{len(lonely):,} files of labels belong to no picture of these splits: {names}"
    if shared := sorted(path.name for path, times in places.items() if times > 1):
        yield f"{len(shared):,} files of labels belong to several pictures: {shortened(shared)}"


def _other_splits(entries: Mapping[str, Any]) -> Iterator[str]:
    if not any(map(entries.get, SPLITS["val"])):
        yield "the data.yaml names no `val`: a part of `train` is kept for validation (--val-share)"
    if entries.get("test"):
        yield "its `test` is not used"


class _Part:
    """A split, which grows by a picture at a time."""

    def __init__(self, root: Path, shape: Shape) -> None:
        self.root, self.shape = root, shape
        self.images: list[Document] = []
        self.annotations: list[Document] = []
        self.classes: set[int] = set()
        self.places: list[Path] = []
        """Where the labels of each picture are, or would be."""
        self.unlabelled = 0
        self.missing: list[str] = []
        self.turned: list[str] = []

    def add(self, path: Path) -> None:
        """A picture, with the instances of its labels."""
        labels, name = labels_of(path), path.relative_to(self.root).as_posix()
        self.places.append(labels)
        if not is_file(labels):
            if is_file(path):
                self.unlabelled += 1
            else:
                self.missing.append(name)
            return
        width, height = self._size_wh(path, name)
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": name, "width": width, "height": height})
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

    def check(self, split: str, paths: Sequence[Path], config: Path, *, skip_missing: bool) -> None:
        """Refuse what cannot be learnt from, or would be learnt wrongly.

        Raises:
            DataError: no picture has labels, listed ones are not there, or some are stored turned.
        """
        if self.missing and not skip_missing:
            raise DataError(
                f"{len(self.missing):,} of {len(paths):,} listed pictures are not there",
                f"{config}: {split}: {shortened(self.missing)} (below {self.root})",
                "correct the list, or add --skip-missing to leave them out",
            )
        if not self.annotations:
            raise DataError(
                f"no picture of {split} has labels",
                f"{labels_of(paths[0])} and {len(paths) - 1:,} more are not there, or empty",
                "put `labels` beside each folder `images`, with a text file for each picture",
            )
        if self.turned:
            raise DataError(
                f"{len(self.turned):,} pictures of {split} are stored turned (EXIF), and YOLO's "
                "labels are of the upright view",
                f"{shortened(self.turned)} (below {self.root})",
                "turn their pixels, on a copy: mogrify -auto-orient FILES; the labels fit then",
            )

    def _size_wh(self, path: Path, name: str) -> tuple[int, int]:
        if not is_file(path):
            return UNREAD_WH
        try:
            data = path.read_bytes()
        except OSError:
            return UNREAD_WH
        if asks_to_be_turned(data):
            self.turned.append(name)
        size = codec.size_hw(data)
        return (size[1], size[0]) if size else UNREAD_WH

    def document(self, categories: list[Document]) -> Document:
        return {
            "images": self.images,
            "annotations": self.annotations,
            "categories": categories,
        }


def _lines(path: Path, shape: Shape) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Class, box (middle and size) [4] and keypoints (x, y, v) [K, 3] of each line.

    Raises:
        DataError: a line is not of this form.
    """
    for at, line in enumerate(text_of(path).splitlines(), 1):
        if words := line.split():
            try:
                numbers = _numbers(words, shape)
            except ValueError as error:
                raise DataError(
                    f"a line of labels that cannot be read ({error})",
                    f"{path}: line {at}",
                    f"write `class x y w h` and {shape.numbers} numbers for each of "
                    f"{shape.keypoints} keypoints, as `kpt_shape` says, in shares of the picture",
                ) from error
            points = numbers[5:].reshape(shape.keypoints, shape.numbers)
            yield int(numbers[0]), numbers[1:5], _with_visibility(points)


def _numbers(words: Sequence[str], shape: Shape) -> np.ndarray:
    wanted = 5 + shape.keypoints * shape.numbers
    if len(words) != wanted:
        raise ValueError(f"{len(words)} numbers where {wanted} are wanted")
    if strange := next((word for word in words if "_" in word), None):
        raise ValueError(f"{shown(strange)} where a number is wanted")  # Python reads 0_5 as 5
    numbers = np.array([float(word) for word in words])
    places = np.arange(wanted) - 5
    is_share = (places < 0) | (places % shape.numbers < 2)
    is_share[0] = False
    least, most = np.where(is_share, SHARES[0], -MOST), np.where(is_share, SHARES[1], MOST)
    within = (least <= numbers) & (numbers <= most)  # false of NaN
    if not within.all():
        worst = words[int(within.argmin())]
        raise ValueError(f"{shown(worst)} where a share of the picture is wanted")
    if numbers[0] != int(numbers[0]) or numbers[0] < 0:
        raise ValueError(f"class {words[0]}")
    return numbers


def _with_visibility(points: np.ndarray) -> np.ndarray:
    """Without a third number, a point is labelled unless it is at (0, 0) or left of or above it."""
    if points.shape[1] == 3:
        return points
    there = np.logical_and(points.any(1), points.min(1) >= 0)
    return np.column_stack([points, np.where(there, 2.0, 0.0)])

"""YOLO-pose labels as COCO documents: what Ultralytics, Roboflow and their like write.

A data.yaml names folders of images, the number of keypoints and how they mirror. Beside each
picture's `images` folder lies `labels`, with a text file of its name: a line for each instance,
`class x y w h` and `px py` or `px py v` a keypoint, all in shares of the image.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrnet_ray.data.annotations import MAX_COORDINATE, build_count_note, format_value, is_regular_file, read_text_file
from hrnet_ray.data.formats import yolo_config, yolo_files
from hrnet_ray.data.formats.yolo_config import KeypointShape
from hrnet_ray.data.formats.yolo_files import resolve_label_path
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.headers import has_exif_orientation
from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import Skeleton

SPLIT_ENTRIES = {"train": ("train",), "val": ("val", "validation")}
"""Splits, and the entries of a data.yaml that may name them."""
UNKNOWN_SIZE_WH = (1000, 1000)
"""A size for images that have none: they go on, to be named with all that cannot be read."""
COORDINATE_FRAC_RANGE = (-1.0, 2.0)
"""A point may lie outside the image; one beyond this is no share of it, but pixels."""

CocoDocument = dict[str, Any]


@dataclass(frozen=True)
class YoloDataset:
    """A YOLO-pose data set in COCO's form."""

    skeleton: Skeleton
    images_dir: Path
    """Folder that the file names in the documents start from."""
    documents: dict[str, CocoDocument]
    """By split: train, and val where the data.yaml names one."""
    notes: list[str]


def read_yolo_pose(
    config: Path,
    *,
    skeleton: Skeleton | None,
    progress: ProgressCallback,
    skip_missing: bool = False,
) -> YoloDataset:
    """Read all labels that a data.yaml leads to; without a `skeleton`, it gives the keypoints.

    Raises:
        DataError: the file, a folder that it names, or a line of the labels is not of this form.
    """
    entries = yolo_config.load_data_yaml(config)
    shape = yolo_config.parse_keypoint_shape(entries, config)
    named = {split: next(filter(entries.get, names), None) for split, names in SPLIT_ENTRIES.items()}
    found = {split: yolo_files.list_images(entries, entry, config) for split, entry in named.items() if entry}
    if "train" not in found:
        raise DataError("a data.yaml without training images", str(config), "add `train: FOLDER`")
    skeleton, notes = yolo_config.build_skeleton_from_data_yaml(entries, shape, skeleton, config)
    images = Path(os.path.commonpath({path.parent for f in found.values() for path in f.image_paths}))
    parts = {split: _YoloSplitBuilder(images, shape) for split in found}
    done, many = 0, sum(len(one.image_paths) for one in found.values())
    for split, one in found.items():
        for path in one.image_paths:
            parts[split].add_image(path)
            done += 1
            progress(done, many)
        parts[split].validate_split(split, one.image_paths, config, skip_missing=skip_missing)
    classes = {class_ for part in parts.values() for class_ in part.class_ids}
    categories = yolo_config.build_coco_categories(entries, classes, skeleton, shape, config)
    return YoloDataset(
        skeleton,
        images.resolve(),
        {split: part.build_document(categories) for split, part in parts.items()},
        [
            *notes,
            *_describe_unused_files(parts),
            *yolo_files.describe_skipped_files(found),
            *_describe_unused_splits(entries),
        ],
    )


def _describe_unused_files(parts: Mapping[str, "_YoloSplitBuilder"]) -> Iterator[str]:
    """Images without labels, labels without images."""
    for split, part in parts.items():
        yield from (f"{split}: {note}" for note in build_count_note(part.missing_images, "listed images are not there"))
        if part.num_unlabeled:
            yield f"{split}: {part.num_unlabeled:,} images have no labels: they are not used"
    places = Counter(path for part in parts.values() for path in part.label_paths)
    orphans = sorted(
        path
        for folder in {path.parent for path in places}
        for path in folder.glob("*.txt")
        if path not in places and path.name != "classes.txt"  # which some tools put there
    )
    yield from build_count_note([path.name for path in orphans], "files of labels belong to no image of these splits")
    shared = sorted(path.name for path, times in places.items() if times > 1)
    yield from build_count_note(shared, "files of labels belong to several images")


def _describe_unused_splits(entries: Mapping[str, Any]) -> Iterator[str]:
    if not any(map(entries.get, SPLIT_ENTRIES["val"])):
        yield "the data.yaml names no `val`: a part of `train` is kept for validation (--val-fraction)"
    if entries.get("test"):
        yield "its `test` is not used"


class _YoloSplitBuilder:
    """A split, which grows by an image at a time."""

    def __init__(self, images_dir: Path, shape: KeypointShape) -> None:
        self.images_dir, self.shape = images_dir, shape
        self.image_records: list[CocoDocument] = []
        self.annotations: list[CocoDocument] = []
        self.class_ids: set[int] = set()
        self.label_paths: list[Path] = []
        """Where the labels of each image are, or would be."""
        self.num_unlabeled = 0
        self.missing_images: list[str] = []
        self.rotated_images: list[str] = []

    def add_image(self, path: Path) -> None:
        """An image, with the instances of its labels."""
        labels, name = resolve_label_path(path), path.relative_to(self.images_dir).as_posix()
        self.label_paths.append(labels)
        if not is_regular_file(labels):
            if is_regular_file(path):
                self.num_unlabeled += 1
            else:
                self.missing_images.append(name)
            return
        width, height = self._read_image_wh(path, name)
        number = len(self.image_records) + 1
        self.image_records.append({"id": number, "file_name": name, "width": width, "height": height})
        for class_, box, points in _iter_label_lines(labels, self.shape):
            self.class_ids.add(class_)
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

    def validate_split(self, split: str, paths: Sequence[Path], config: Path, *, skip_missing: bool) -> None:
        """Refuse what cannot be learnt from, or would be learnt wrongly.

        Raises:
            DataError: no image has labels, listed ones are not there, or some are stored turned.
        """
        if self.missing_images and not skip_missing:
            raise DataError(
                f"{len(self.missing_images):,} of {len(paths):,} listed images are not there",
                f"{config}: {split}: {format_list(self.missing_images)} (below {self.images_dir})",
                "correct the list, or add --skip-missing to leave them out",
            )
        if not self.annotations:
            raise DataError(
                f"no image of {split} has labels",
                f"{resolve_label_path(paths[0])} and {len(paths) - 1:,} more are not there, or empty",
                "put `labels` beside each folder `images`, with a text file for each image",
            )
        if self.rotated_images:
            raise DataError(
                f"{len(self.rotated_images):,} images of {split} are stored turned (EXIF), and YOLO's "
                "labels are of the upright view",
                f"{format_list(self.rotated_images)} (below {self.images_dir})",
                "turn their pixels, on a copy: mogrify -auto-orient FILES; the labels fit then",
            )

    def _read_image_wh(self, path: Path, name: str) -> tuple[int, int]:
        if not is_regular_file(path):
            return UNKNOWN_SIZE_WH
        try:
            data = path.read_bytes()
        except OSError:
            return UNKNOWN_SIZE_WH
        if has_exif_orientation(data):
            self.rotated_images.append(name)
        size = codec.read_size_hw(data)
        return (size[1], size[0]) if size else UNKNOWN_SIZE_WH

    def build_document(self, categories: list[CocoDocument]) -> CocoDocument:
        return {
            "images": self.image_records,
            "annotations": self.annotations,
            "categories": categories,
        }


def _iter_label_lines(path: Path, shape: KeypointShape) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Class, box (middle and size) [4] and keypoints (x, y, v) [K, 3] of each line.

    Raises:
        DataError: a line is not of this form.
    """
    for at, line in enumerate(read_text_file(path).splitlines(), 1):
        if words := line.split():
            try:
                numbers = _parse_label_line(words, shape)
            except ValueError as error:
                raise DataError(
                    f"a line of labels that cannot be read ({error})",
                    f"{path}: line {at}",
                    f"write `class x y w h` and {shape.values_per_keypoint} numbers for each of "
                    f"{shape.num_keypoints} keypoints, as `kpt_shape` says, in shares of the image",
                ) from error
            points = numbers[5:].reshape(shape.num_keypoints, shape.values_per_keypoint)
            yield int(numbers[0]), numbers[1:5], _fill_visibility(points)


def _parse_label_line(words: Sequence[str], shape: KeypointShape) -> np.ndarray:
    wanted = 5 + shape.num_keypoints * shape.values_per_keypoint
    if len(words) != wanted:
        raise ValueError(f"{len(words)} numbers where {wanted} are wanted")
    if strange := next((word for word in words if "_" in word), None):
        raise ValueError(f"{format_value(strange)} where a number is wanted")  # Python reads 0_5 as 5
    numbers = np.array([float(word) for word in words])
    places = np.arange(wanted) - 5
    is_share = (places < 0) | (places % shape.values_per_keypoint < 2)
    is_share[0] = False
    least, most = (
        np.where(is_share, COORDINATE_FRAC_RANGE[0], -MAX_COORDINATE),
        np.where(is_share, COORDINATE_FRAC_RANGE[1], MAX_COORDINATE),
    )
    within = (least <= numbers) & (numbers <= most)  # false of NaN
    if not within.all():
        worst = words[int(within.argmin())]
        raise ValueError(f"{format_value(worst)} where a share of the image is wanted")
    if numbers[0] != int(numbers[0]) or numbers[0] < 0:
        raise ValueError(f"class {words[0]}")
    return numbers


def _fill_visibility(points: np.ndarray) -> np.ndarray:
    """Without a third number, a point is labelled unless it is at (0, 0) or left of or above it."""
    if points.shape[1] == 3:
        return points
    there = np.logical_and(points.any(1), points.min(1) >= 0)
    return np.column_stack([points, np.where(there, 2.0, 0.0)])

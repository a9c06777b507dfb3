"""What a reader of annotations returns: instances, and what it left out and why.

And what every reader asks of an annotation file: numbers that are numbers, names that are names.
"""

import json
import math
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from reprlib import Repr
from typing import Any

import numpy as np

from hrnet_ray.errors import DataError, format_list
from hrnet_ray.skeletons import Skeleton

MAX_COORDINATE = 1e9
"""No image has a coordinate beyond this."""

MAX_TEXT_BYTES = 64 * 2**20
"""Largest text file that is read, in bytes."""

MAX_PATH_BYTES = 4096
"""No file system here takes a path of more bytes."""


class SkipReason(StrEnum):
    """Why a thing was read and not used: short and constant, a column of skipped.csv."""

    CROWD = "crowd"
    NO_KEYPOINTS = "no keypoints"
    EMPTY_BOX = "empty box"
    MISSING_IMAGE = "missing image"
    CORRUPT_IMAGE = "broken image"
    MERGED_POSES = "merged poses"
    DUPLICATE_KEYPOINT = "keypoint twice"
    KEYPOINT_WITHOUT_BOX = "keypoint without box"
    EXIF_ROTATED_IMAGE = "turned image"
    CANCELLED = "cancelled"
    OTHER_ANNOTATION = "other annotation"
    OTHER_CATEGORY = "other category"


@dataclass(frozen=True, kw_only=True)
class PoseInstance:
    """One labelled person or animal. All coordinates are pixels of the original image."""

    id: int
    """Its annotation's id, or its place in the file where annotations have none."""
    image_id: int
    image: str
    """File name, relative to the folder of images."""
    category_id: int = 1
    box_xywh: tuple[float, float, float, float]
    area: float
    """OKS measures errors against its square root."""
    head_size: float = math.nan
    """Head size for PCKh, in pixels; NaN where the labels give none."""
    image_xy: np.ndarray
    """float64 [K, 2]; (0, 0) where hidden."""
    visible: np.ndarray
    """bool [K]: labelled, so learnt and scored."""
    annotated_wh: tuple[float, float] | None = None
    """Size of the image, where the annotations state it."""


@dataclass(frozen=True)
class SkippedItem:
    """One thing that was read and not used."""

    item: str
    reason: str
    """One of `Reason`."""
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class AnnotationSet:
    """One annotation file, read to the end: `read == len(instances) + len(skipped)`."""

    source: Path
    skeleton: Skeleton
    instances: list[PoseInstance]
    skipped: list[SkippedItem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What a person should know before trusting a score."""

    @property
    def num_read(self) -> int:
        return len(self.instances) + len(self.skipped)


_REPR = Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 2, 6, 4
_REPR.maxstring = _REPR.maxlong = _REPR.maxother = 60


def build_count_note(names: list[str], what: str) -> list[str]:
    """Build a note with the number of `names` and the first of them; no note without names."""
    return [f"{len(names):,} {what}: {format_list(names)}"] if names else []


def format_value(value: object) -> str:
    """Quote a value of a file in an error: short for any length and depth."""
    return _REPR.repr(value)


def parse_number(value: object, field_name: str) -> float:
    """A JSON number; no text, no true or false, no NaN, nothing beyond `MOST`.

    Raises:
        ValueError: `value` is none.
    """
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < MAX_COORDINATE:
        raise ValueError(f"{field_name} is {format_value(value)} where a number is wanted")
    return float(value)


def parse_numbers(value: object, count: int, field_name: str) -> np.ndarray:
    """A JSON list of `count` numbers, as float64 [count].

    Raises:
        ValueError: `value` is no such list.
    """
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{field_name} is {format_value(value)} where {count} numbers are wanted")
    if not all(type(item) in (int, float) and abs(item) < MAX_COORDINATE for item in value):
        for at, item in enumerate(value):  # reported by index; texts for all items would cost more
            parse_number(item, f"{field_name}[{at}]")
    return np.array(value, np.float64)


def parse_file_name(value: object, field_name: str) -> str:
    """A name that a file can have.

    Raises:
        ValueError: `value` is no text, is empty, or holds half a character.
    """
    if not isinstance(value, str) or not value:
        raise ValueError(f"{field_name} is {format_value(value)} where a file name is wanted")
    value.encode()  # a lone surrogate: UnicodeEncodeError is a ValueError
    return value


def resolve_image_path(images: Path, name: str) -> Path:
    """The real path of the file that an annotation names, which must lie below `images`.

    Raises:
        DataError: the name leads elsewhere (`../`, an absolute path, a link out of the folder), is
            an address, or is no name that a file can have.
    """
    if _URL_PATTERN.match(name):
        raise DataError(
            "an annotation that names an address where a file is wanted",
            f"{name[:80]!r}",
            "download the images, and give their file names; nothing is fetched from a network",
        )
    try:
        root, path = images.resolve(), (images / name).resolve()
        inside = path.is_relative_to(root) and len(name.encode()) <= MAX_PATH_BYTES
    except (OSError, ValueError, RuntimeError):  # a NUL in it; a link that leads to itself
        inside = False
    if not inside:
        raise DataError(
            "an annotation that names a file outside the folder of images",
            f"{name[:80]!r} below {images}",
            "correct file_name in the annotations; only files below --images are opened",
        )
    return path


_URL_PATTERN = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


def load_json_file(path: Path, *, fix: str) -> Any:
    """The content of a JSON file that a flag named.

    Raises:
        DataError: it is not there, or is no JSON.
    """
    require_file(path, "--annotations")
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise DataError("a file that is no JSON", f"{path}: {error}", fix) from error


def is_regular_file(path: Path) -> bool:
    """Whether it is an ordinary file; a name that no file can have is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def read_text_file(path: Path) -> str:
    """The content of a text file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_TEXT_BYTES + 1)
        if len(data) > MAX_TEXT_BYTES:
            raise ValueError(f"larger than {MAX_TEXT_BYTES // 2**20} MB")
        return data.decode("utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError("a text file that cannot be read", f"{path}: {error}", "write it again, in UTF-8") from error


def ensure_dir(path: Path, flag: str) -> None:
    """Make a folder, with those above it, unless it is there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            "a folder that cannot be made",
            f"{flag} {path}: {error.strerror}",
            "give a folder that can be written",
        ) from error


def require_dir(path: Path, flag: str) -> None:
    """Refuse a folder that is not there, or is a file."""
    if not path.is_dir():
        is_what = "is a file" if path.exists() else "is not there"
        raise DataError(f"the folder {is_what}", f"{flag} {path}", "give an existing folder")


def require_file(path: Path, flag: str) -> None:
    """Refuse a file that is not there, or is a folder."""
    if not path.is_file():
        is_what = "is a folder" if path.exists() else "is not there"
        raise DataError(f"the file {is_what}", f"{flag} {path}", "give an existing file")

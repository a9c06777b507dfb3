"""The people of the original MPII release, `mpii_human_pose_v1_u12_1.mat`.

They are read as the HRNet authors' JSON has them: pixels counted from 0, the box that gives
the published crop, and every keypoint that was annotated is learnt and scored, occluded or not
(`is_visible` is not looked at). Its README describes the fields:
RELEASE.annolist(i).annorect(j), and RELEASE.img_train(i) separates training images from test ones.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrnet_ray.data.annotations import PoseInstance, SkippedItem, parse_file_name, parse_number
from hrnet_ray.data.formats.matlab import load_mat_safe
from hrnet_ray.data.formats.mpii import PIXEL_STD, SC_BIAS, compute_box_from_center_scale
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import MPII


class MpiiPerson(NamedTuple):
    """Someone in a training image."""

    instance: PoseInstance
    item: str
    """Where in the file."""
    video: str
    """The video of the image; the image itself where the file names none."""


class _SkippedPersonError(Exception):
    """Why a person cannot be used: a reason code and a detail."""


def read_release_records(path: Path) -> tuple[list[MpiiPerson], list[SkippedItem]]:
    """Read everyone in the training images, and what is not used and why.

    The count covers the people of training images, and an image as one item where no person in it is
    looked at: a test image, whose people were published without keypoints; a training image
    with no people or no name.

    Raises:
        DataError: a file of another form, or one without a single person that can be used.
    """
    release = load_mat_safe(path, ["RELEASE"], flag="--annotations", squeeze=True)["RELEASE"]
    entries = _list_items(_get_field(release, "annolist"))
    training = _parse_training_flags(_get_field(release, "img_train"), len(entries), path)
    people: list[MpiiPerson] = []
    skipped: list[SkippedItem] = []
    for at, entry in enumerate(entries):
        if training[at]:
            _read_image_entry(entry, at, people, skipped)
        else:
            skipped.append(SkippedItem(_describe_entry(entry, at), "test image"))
    if not people:
        reasons = Counter(thing.reason for thing in skipped)
        raise DataError(
            "an MPII release without a person that can be used",
            f"{path}: {', '.join(f'{reason} {n:,}' for reason, n in reasons.items()) or 'empty'}",
            "give mpii_human_pose_v1_u12_1.mat as it was downloaded",
        )
    return people, skipped


def _parse_training_flags(flags: Any, num_images: int, path: Path) -> np.ndarray:
    """Find which images are for training, as bool [images]."""
    flags = _list_items(flags)
    if len(flags) != num_images or not all(flag in (0, 1) for flag in flags):
        raise DataError(
            "a MATLAB file that is no MPII release",
            f"{path}: RELEASE has {num_images:,} annolist and {len(flags):,} img_train of 0 and 1",
            "give mpii_human_pose_v1_u12_1.mat as it was downloaded",
        )
    return np.array(flags) == 1


def _read_image_entry(entry: Any, entry_index: int, people: list[MpiiPerson], skipped: list[SkippedItem]) -> None:
    try:
        image = parse_file_name(_get_field(_get_field(entry, "image"), "name"), "image.name")
    except ValueError as error:
        skipped.append(SkippedItem(f"annolist({entry_index + 1})", "no image name", str(error)))
        return
    video = _parse_video_name(entry, image)
    rects = _list_items(_get_field(entry, "annorect"))
    if not rects:
        skipped.append(SkippedItem(_describe_entry(entry, entry_index), "no people"))
    for rect_at, rect in enumerate(rects):
        item = f"annolist({entry_index + 1}).annorect({rect_at + 1}) ({image})"
        try:
            instance = _parse_instance(rect, id=len(people), image_id=entry_index, image=image)
            people.append(MpiiPerson(instance, item, video))
        except _SkippedPersonError as skip:
            skipped.append(SkippedItem(item, *skip.args))
        except ValueError as error:
            skipped.append(SkippedItem(item, "damaged", str(error)))


def _describe_entry(entry: Any, entry_index: int) -> str:
    name = _get_field(_get_field(entry, "image"), "name")
    return f"annolist({entry_index + 1}) ({name})" if isinstance(name, str) else f"annolist({entry_index + 1})"


def _parse_video_name(entry: Any, image: str) -> str:
    try:
        video = _parse_optional_number(entry, "vidx")
    except ValueError:
        video = None
    return f"image {image}" if video is None else f"video {video:g}"


def _parse_instance(rect: Any, *, id: int, image_id: int, image: str) -> PoseInstance:
    image_xy, visible = _parse_keypoints(rect)
    scale = _parse_optional_number(rect, "scale")
    if scale is None:
        raise _SkippedPersonError("no scale")
    if scale <= 0:
        raise ValueError(f"scale is {scale:g}")
    place = _get_field(rect, "objpos")
    x, y = _parse_optional_number(place, "x"), _parse_optional_number(place, "y")
    if x is None or y is None:
        raise _SkippedPersonError("no centre")
    return PoseInstance(
        id=id,
        image_id=image_id,
        image=image,
        box_xywh=compute_box_from_center_scale(np.array([x, y]), scale),
        area=(scale * PIXEL_STD) ** 2,
        head_size=_compute_head_size(rect),
        image_xy=image_xy,
        visible=visible,
    )


def _parse_keypoints(rect: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where the keypoints are, float64 [16, 2], and which were annotated, bool [16]."""
    image_xy, visible = np.zeros((len(MPII), 2)), np.zeros(len(MPII), bool)
    for annotated in _list_items(_get_field(rect, "annopoints")):
        for point in _list_items(_get_field(annotated, "point")):
            id, x, y = (_parse_optional_number(point, name) for name in ("id", "x", "y"))
            if id is None or x is None or y is None:
                raise ValueError("a point without id, x or y")
            if id not in range(len(MPII)):
                raise ValueError(f"a point of id {id:g}")
            keypoint = int(id)
            if visible[keypoint]:
                raise ValueError(f"{MPII.keypoints[keypoint]} is there twice")
            image_xy[keypoint], visible[keypoint] = (x - 1, y - 1), True
    if not visible.any():
        raise _SkippedPersonError("no keypoints")
    return image_xy, visible


def _compute_head_size(rect: Any) -> float:
    x1, y1, x2, y2 = (_parse_optional_number(rect, name) for name in ("x1", "y1", "x2", "y2"))
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return math.nan
    return math.hypot(x2 - x1, y2 - y1) * SC_BIAS or math.nan  # no box has no size


def _get_field(struct: Any, name: str) -> Any:
    """A field of a struct; None where it has none, or is no struct."""
    return struct.get(name) if isinstance(struct, dict) else None


def _list_items(value: Any) -> list[Any]:
    """What MATLAB wrote as one value, an array of them, or nothing."""
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _parse_optional_number(struct: Any, name: str) -> float | None:
    """A number in a struct; None where it is missing or empty.

    Raises:
        ValueError: there is something else.
    """
    value = _get_field(struct, name)
    return None if value is None or value == [] else parse_number(value, name)

"""The people of the original MPII release, `mpii_human_pose_v1_u12_1.mat`.

They are read as the HRNet authors' JSON has them: pixels counted from 0, the box that gives
the published crop, and every keypoint that was annotated is learnt and scored, occluded or not
(`is_visible` is not looked at). Its README describes the fields:
RELEASE.annolist(i).annorect(j), and RELEASE.img_train(i) tells training pictures from test ones.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hrnet_ray.data.annotations import Instance, Skipped, file_name, number
from hrnet_ray.data.formats.matlab import load_matlab
from hrnet_ray.data.formats.mpii import PIXEL_STD, SC_BIAS, published_box
from hrnet_ray.errors import DataError
from hrnet_ray.skeletons import MPII


class Person(NamedTuple):
    """Someone in a training picture."""

    instance: Instance
    item: str
    """Where in the file."""
    video: str
    """What the picture is a frame of; the picture itself where that is not told."""


class _Skip(Exception):
    """Why a person cannot be used: a reason code and a detail."""


def read_people(path: Path) -> tuple[list[Person], list[Skipped]]:
    """Read everyone in the training pictures, and what is not used and why.

    Counted are the people of training pictures, and a picture as one thing where nobody in it is
    looked at: a test picture, whose people were published without keypoints; a training picture
    with no people or no name.

    Raises:
        DataError: a file of another form, or one without a single person that can be used.
    """
    release = load_matlab(
        path, ["RELEASE"], flag="--annotations", struct_as_record=False, squeeze_me=True
    )["RELEASE"]
    entries = _structs(_get(release, "annolist"))
    training = _training(_get(release, "img_train"), len(entries), path)
    people: list[Person] = []
    skipped: list[Skipped] = []
    for at, entry in enumerate(entries):
        if training[at]:
            _read_picture(entry, at, people, skipped)
        else:
            skipped.append(Skipped(_item(entry, at), "test picture"))
    if not people:
        reasons = Counter(thing.reason for thing in skipped)
        raise DataError(
            "an MPII release without a person that can be used",
            f"{path}: {', '.join(f'{reason} {n:,}' for reason, n in reasons.items()) or 'empty'}",
            "give mpii_human_pose_v1_u12_1.mat as it was downloaded",
        )
    return people, skipped


def _training(flags: Any, pictures: int, path: Path) -> np.ndarray:
    """Tell which pictures are for training, as bool [pictures]."""
    flags = np.ravel(flags)
    if flags.dtype.kind not in "biuf" or len(flags) != pictures or not np.isin(flags, (0, 1)).all():
        raise DataError(
            "a MATLAB file that is no MPII release",
            f"{path}: RELEASE has {pictures:,} annolist and {len(flags):,} img_train of 0 and 1",
            "give mpii_human_pose_v1_u12_1.mat as it was downloaded",
        )
    return flags == 1


def _read_picture(entry: Any, at: int, people: list[Person], skipped: list[Skipped]) -> None:
    try:
        image = file_name(_get(_get(entry, "image"), "name"), "image.name")
    except ValueError as error:
        skipped.append(Skipped(f"annolist({at + 1})", "no picture name", str(error)))
        return
    video = _video(entry, image)
    rects = _structs(_get(entry, "annorect"))
    if not rects:
        skipped.append(Skipped(_item(entry, at), "no people"))
    for rect_at, rect in enumerate(rects):
        item = f"annolist({at + 1}).annorect({rect_at + 1}) ({image})"
        try:
            instance = _instance(rect, id=len(people), image_id=at, image=image)
            people.append(Person(instance, item, video))
        except _Skip as skip:
            skipped.append(Skipped(item, *skip.args))
        except ValueError as error:
            skipped.append(Skipped(item, "damaged", str(error)))


def _item(entry: Any, at: int) -> str:
    name = _get(_get(entry, "image"), "name")
    return f"annolist({at + 1}) ({name})" if isinstance(name, str) else f"annolist({at + 1})"


def _video(entry: Any, image: str) -> str:
    try:
        video = _number(entry, "vidx")
    except ValueError:
        video = None
    return f"picture {image}" if video is None else f"video {video:g}"


def _instance(rect: Any, *, id: int, image_id: int, image: str) -> Instance:
    image_xy, visible = _keypoints(rect)
    scale = _number(rect, "scale")
    if scale is None:
        raise _Skip("no scale")
    if scale <= 0:
        raise ValueError(f"scale is {scale:g}")
    place = _get(rect, "objpos")
    x, y = _number(place, "x"), _number(place, "y")
    if x is None or y is None:
        raise _Skip("no centre")
    return Instance(
        id=id,
        image_id=image_id,
        image=image,
        category_id=1,
        box_xywh=published_box(np.array([x, y]), scale),
        area=(scale * PIXEL_STD) ** 2,
        head_size=_head_size(rect),
        image_xy=image_xy,
        visible=visible,
    )


def _keypoints(rect: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return where the keypoints are, float64 [16, 2], and which were annotated, bool [16]."""
    image_xy, visible = np.zeros((len(MPII), 2)), np.zeros(len(MPII), bool)
    for annotated in _structs(_get(rect, "annopoints")):
        for point in _structs(_get(annotated, "point")):
            id, x, y = (_number(point, name) for name in ("id", "x", "y"))
            if id is None or x is None or y is None:
                raise ValueError("a point without id, x or y")
            if id not in range(len(MPII)):
                raise ValueError(f"a point of id {id:g}")
            keypoint = int(id)
            if visible[keypoint]:
                raise ValueError(f"{MPII.keypoints[keypoint]} is there twice")
            image_xy[keypoint], visible[keypoint] = (x - 1, y - 1), True
    if not visible.any():
        raise _Skip("no keypoints")
    return image_xy, visible


def _head_size(rect: Any) -> float:
    x1, y1, x2, y2 = (_number(rect, name) for name in ("x1", "y1", "x2", "y2"))
    if x1 is None or y1 is None or x2 is None or y2 is None:
        return math.nan
    return math.hypot(x2 - x1, y2 - y1) * SC_BIAS or math.nan  # no box has no size


def _get(thing: Any, name: str) -> Any:
    """A field of a struct; None where it has none, or is no struct."""
    return getattr(thing, "__dict__", {}).get(name)


def _structs(value: Any) -> list[Any]:
    """What MATLAB wrote as one struct, an array of them, or nothing."""
    if value is None:
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def _number(thing: Any, name: str) -> float | None:
    """A number in a struct; None where it is missing or empty.

    Raises:
        ValueError: there is something else.
    """
    value = _get(thing, name)
    if isinstance(value, np.ndarray | np.generic) and value.ndim == 0:
        value = value.item()
    if value is None or (isinstance(value, np.ndarray) and value.size == 0):
        return None
    return number(value, name)

"""Drawn tigers and people in the file layouts of ATRW and MPII: the data of the demo and the tests.

The readers cannot tell these folders from downloaded ones. Every picture is drawn from
`default_rng([seed, its number])`, so it looks the same however many others are drawn.
"""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import scipy.io
from joblib import cpu_count

from hrnet_ray.data.synthetic.people import (
    Person,
    draw_person,
    head_box,
    keypoints as person_keypoints,
    random_person,
)
from hrnet_ray.data.synthetic.scenery import foreground, photograph, scenery
from hrnet_ray.data.synthetic.tigers import (
    Tiger,
    draw_tiger,
    keypoints as tiger_keypoints,
    random_tiger,
)
from hrnet_ray.skeletons import ATRW

JPEG_QUALITY = 92
FEWEST_LABELS = 6  # a tiger with fewer keypoints in the picture is placed again
FIGURE_FRACS = {1: (0.35, 0.75), 2: (0.30, 0.50), 3: (0.26, 0.40)}  # body length by company
FOREGROUND = 255  # in the map of who covers a pixel: grass and trunks; 0 is nobody
MPII_NAMES = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)

T = TypeVar("T")
Progress = Callable[[int, int], None]


def write_tigers(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    size_hw: tuple[int, int] = (240, 320),
    per_picture: tuple[int, int] = (1, 3),
    progress: Progress | None = None,
) -> None:
    """Write `train` + `val` pictures as ATRW is downloaded; ids count from 0 through both splits.

    `progress` is told (pictures done, pictures in all) from time to time.
    """

    def write(picture_id: int) -> tuple[str, Any]:
        split = "train" if picture_id < train else "val"
        rng = np.random.default_rng([seed, picture_id])
        picture, seen = _tiger_picture(rng, size_hw, per_picture)
        _write_jpeg(out / "images" / split / f"{picture_id:06d}.jpg", picture)
        return split, (picture_id, seen)

    _make_folders(out, "images/train", "images/val", "annotations")
    drawn = _each(write, train + val, progress)
    for split in ("train", "val"):
        content = _atrw_json([labels for part, labels in drawn if part == split], size_hw)
        (out / "annotations" / f"keypoint_{split}.json").write_text(json.dumps(content))


def write_people(
    out: Path,
    *,
    train: int,
    val: int,
    seed: int = 0,
    size_hw: tuple[int, int] = (240, 320),
    progress: Progress | None = None,
) -> None:
    """Write `train` + `val` pictures of one person each, as HRNet's authors ship MPII."""

    def write(picture_id: int) -> tuple[dict[str, Any], np.ndarray]:
        rng = np.random.default_rng([seed, picture_id])
        picture, person = _person_picture(rng, size_hw)
        name = f"{picture_id:09d}.jpg"
        _write_jpeg(out / "images" / name, picture)
        return _mpii_record(person, name, size_hw), head_box(person) + 1

    _make_folders(out, "images", "annot")
    drawn = _each(write, train + val, progress)
    for split, part in (("train", drawn[:train]), ("valid", drawn[train:])):
        records = [record for record, _ in part]
        (out / "annot" / f"{split}.json").write_text(json.dumps(records))
    _write_gt_valid(out / "annot" / "gt_valid.mat", drawn[train:])


def _make_folders(out: Path, *names: str) -> None:
    for name in names:
        (out / name).mkdir(parents=True, exist_ok=True)


def _each(write: Callable[[int], T], count: int, progress: Progress | None) -> list[T]:
    """Call `write` for 0 ... count - 1 on all cores (cv2 lets go of Python's lock), in order."""
    written = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for result in pool.map(write, range(count)):
            written.append(result)
            if progress:
                progress(len(written), count)
    return written


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    _, jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(jpeg.tobytes())


# Annotations.


class SeenTiger(NamedTuple):
    """What the annotator sees of one tiger."""

    box_xywh: tuple[int, int, int, int]
    image_xy: np.ndarray
    labelled: np.ndarray


def _atrw_json(
    pictures: list[tuple[int, list[SeenTiger]]], size_hw: tuple[int, int]
) -> dict[str, Any]:
    height, width = size_hw
    images = [
        {"id": id, "filename": f"{id:06d}.jpg", "width": width, "height": height}
        for id, _ in pictures
    ]
    annotations = [
        _atrw_record(tiger) | {"image_id": id} for id, seen in pictures for tiger in seen
    ]
    for id, annotation in enumerate(annotations):  # from 0, as in the real files
        annotation["id"] = id
    return {"images": images, "annotations": annotations, "categories": [_atrw_category()]}


def _atrw_category() -> dict[str, Any]:
    place = ATRW.keypoints.index
    return {
        "id": 1,
        "name": "tiger",
        "supercategory": "animal",
        "keypoints": list(ATRW.keypoints),
        "skeleton": [[place(a), place(b)] for a, b in ATRW.bones],  # from 0, as in the real files
    }


def _atrw_record(tiger: SeenTiger) -> dict[str, Any]:
    rows = [
        (round(float(x), 2), round(float(y), 2), 2) if labelled else (0, 0, 0)
        for (x, y), labelled in zip(tiger.image_xy, tiger.labelled, strict=True)
    ]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": list(tiger.box_xywh),
        "area": tiger.box_xywh[2] * tiger.box_xywh[3],
        "keypoints": [value for row in rows for value in row],
        "num_keypoints": int(tiger.labelled.sum()),
    }


def _mpii_record(person: Person, name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    image_xy = person_keypoints(person)
    inside = _inside(image_xy, size_hw)
    joints = np.where(inside[:, None], image_xy + 1, -1.0)  # MPII counts from 1
    middle = (image_xy.min(axis=0) + image_xy.max(axis=0)) / 2 + 1
    return {
        "image": name,
        "center": middle.round(2).tolist(),
        "scale": person.height_px / 200,
        "joints": joints.round(2).tolist(),
        "joints_vis": inside.astype(int).tolist(),
    }


def _write_gt_valid(path: Path, drawn: list[tuple[dict[str, Any], np.ndarray]]) -> None:
    """The arrays that PCKh is computed from, in the order of valid.json."""
    joints = np.array([record["joints"] for record, _ in drawn]).reshape(-1, 16, 2)
    visible = np.array([record["joints_vis"] for record, _ in drawn]).reshape(-1, 16)
    boxes = np.array([box for _, box in drawn]).reshape(-1, 2, 2)
    content = {
        "dataset_joints": np.array(MPII_NAMES, dtype=object)[None],
        "jnt_missing": (1 - visible).T.astype(float),
        "pos_gt_src": joints.transpose(1, 2, 0),
        "headboxes_src": boxes.transpose(1, 2, 0),
    }
    scipy.io.savemat(path, content)


def _inside(image_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    height, width = size_hw
    last = np.array([width - 1, height - 1])
    return np.all((image_xy >= 0) & (image_xy <= last), axis=-1)


# Pictures.


def _tiger_picture(
    rng: np.random.Generator, size_hw: tuple[int, int], per_picture: tuple[int, int]
) -> tuple[np.ndarray, list[SeenTiger]]:
    picture = scenery(rng, size_hw)
    covers = np.zeros(size_hw, np.uint8)  # who is nearest to the viewer at each pixel
    tigers = _place_tigers(rng, size_hw, int(rng.integers(per_picture[0], per_picture[1] + 1)))
    boxes = []
    for number, tiger in enumerate(tigers, start=1):
        silhouette = draw_tiger(picture, tiger)
        covers[silhouette > 127] = number
        boxes.append(tuple(map(int, cv2.boundingRect(silhouette))))
    covers[foreground(rng, picture)] = FOREGROUND
    seen = []
    for number, (tiger, box) in enumerate(zip(tigers, boxes, strict=True), start=1):
        image_xy = tiger_keypoints(tiger)
        seen.append(SeenTiger(box, image_xy, _labelled(rng, image_xy, number, covers)))
    return photograph(rng, picture), seen


def _labelled(
    rng: np.random.Generator, image_xy: np.ndarray, number: int, covers: np.ndarray
) -> np.ndarray:
    """Annotators guess a keypoint behind grass now and then, but not one behind another tiger."""
    inside = _inside(image_xy, covers.shape)
    column, row = np.where(inside[:, None], image_xy, 0).round().astype(int).T
    cover = covers[row, column]
    guessed = rng.uniform(size=len(inside)) < 0.3
    return inside & ((cover <= number) | (guessed & (cover == FOREGROUND)))


def _place_tigers(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> list[Tiger]:
    """Find room for each, and put the farther ones first."""
    placed: list[Tiger] = []
    taken = np.empty((0, 4))
    for _ in range(count):
        tiger, box = _place_tiger(rng, size_hw, FIGURE_FRACS[min(count, 3)], taken)
        placed.append(tiger)
        taken = np.vstack([taken, box])
    return sorted(placed, key=lambda tiger: tiger.center_xy[1] + 0.5 * tiger.body_px)


def _place_tiger(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    figure_frac: tuple[float, float],
    taken: np.ndarray,
) -> tuple[Tiger, np.ndarray]:
    """Of some places, take the one with the least overlap and the most keypoints inside."""
    height, width = size_hw
    body_px = min(rng.uniform(*figure_frac) * height, 0.52 * width)
    tiger = replace(random_tiger(rng), body_px=body_px)
    figure_xy = tiger_keypoints(tiger)
    low, high = figure_xy.min(axis=0), figure_xy.max(axis=0)
    nearest_y = height - 0.7 * high[1]  # some paws end below the picture
    farthest_y = max(0.45 * height - high[1], -0.6 * low[1])  # all paws are below the horizon
    centers = rng.uniform((0.2 * width, farthest_y), (0.8 * width, nearest_y), (12, 2))
    boxes = np.hstack([centers + low, centers + high])
    inside = _inside(centers[:, None] + figure_xy, size_hw).sum(axis=-1)
    cost = _overlap(boxes, taken) - 0.02 * inside + (inside < FEWEST_LABELS)
    best = int(cost.argmin())
    x, y = centers[best].tolist()
    return replace(tiger, center_xy=(x, y)), boxes[best]


def _overlap(boxes: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """The share of each box [N, 4] (x1, y1, x2, y2) that the taken ones cover."""
    first = np.maximum(boxes[:, None, :2], taken[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], taken[None, :, 2:])
    shared = np.maximum(last - first, 0).prod(axis=-1).sum(axis=-1)
    return shared / (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)


def _person_picture(
    rng: np.random.Generator, size_hw: tuple[int, int]
) -> tuple[np.ndarray, Person]:
    height, width = size_hw
    picture = scenery(rng, size_hw)
    height_px = rng.uniform(0.55, 0.95) * height
    person = replace(
        random_person(rng),
        pelvis_xy=(rng.uniform(0.25, 0.75) * width, rng.uniform(0.45, 0.60) * height),
        height_px=height_px,
    )
    draw_person(picture, person)
    return photograph(rng, picture), person

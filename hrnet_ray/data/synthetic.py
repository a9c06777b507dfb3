"""Drawn tigers and people in the file layouts of ATRW and MPII: the data of the demo and the tests.

The readers cannot tell these folders from downloaded ones. Every picture is drawn from
`default_rng([seed, its number])`, so it looks the same however many others are drawn.
"""

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
import scipy.io

from hrnet_ray.data.people import Person, draw_person, head_box, random_person
from hrnet_ray.data.people import keypoints as person_keypoints
from hrnet_ray.data.tigers import Tiger, draw_tiger, random_tiger
from hrnet_ray.data.tigers import keypoints as tiger_keypoints
from hrnet_ray.skeletons import ATRW

JPEG_QUALITY = 92
FEWEST_LABELS = 6  # a tiger with fewer keypoints in the picture is placed again
FOREGROUND = 255  # in the map of who covers a pixel: grass and trunks; 0 is nobody
MPII_NAMES = "rank rkne rhip lhip lkne lank pelv thor neck head rwri relb rsho lsho lelb lwri".split()

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
    with ThreadPoolExecutor(os.cpu_count()) as pool:
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
    annotations = [_atrw_record(tiger) | {"image_id": id} for id, seen in pictures for tiger in seen]
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
    return ((image_xy >= 0) & (image_xy <= (width - 1, height - 1))).all(axis=-1)


# Pictures.


def _tiger_picture(
    rng: np.random.Generator, size_hw: tuple[int, int], per_picture: tuple[int, int]
) -> tuple[np.ndarray, list[SeenTiger]]:
    picture = _scenery(rng, size_hw)
    covers = np.zeros(size_hw, np.uint8)  # who is nearest to the viewer at each pixel
    tigers = _place_tigers(rng, size_hw, int(rng.integers(per_picture[0], per_picture[1] + 1)))
    boxes = []
    for number, tiger in enumerate(tigers, start=1):
        silhouette = draw_tiger(picture, tiger)
        covers[silhouette > 127] = number
        boxes.append(tuple(map(int, cv2.boundingRect(silhouette))))
    _foreground(rng, picture, covers)
    seen = [
        SeenTiger(box, tiger_keypoints(tiger), _labelled(rng, tiger, number, covers))
        for number, (tiger, box) in enumerate(zip(tigers, boxes, strict=True), start=1)
    ]
    return _photograph(rng, picture), seen


def _labelled(
    rng: np.random.Generator, tiger: Tiger, number: int, covers: np.ndarray
) -> np.ndarray:
    """Annotators guess a keypoint behind grass now and then, but not one behind another tiger."""
    image_xy = tiger_keypoints(tiger)
    inside = _inside(image_xy, covers.shape)
    column, row = np.where(inside[:, None], image_xy, 0).round().astype(int).T
    cover = covers[row, column]
    guessed = rng.uniform(size=len(inside)) < 0.3
    return inside & ((cover <= number) | (guessed & (cover == FOREGROUND)))


def _place_tigers(
    rng: np.random.Generator, size_hw: tuple[int, int], count: int
) -> list[Tiger]:
    """Find room for each, the farther ones first; after some tries they may overlap."""
    placed: list[Tiger] = []
    for _ in range(count):
        tries = [_place_tiger(rng, size_hw, count) for _ in range(8)]
        placed.append(min(tries, key=lambda tiger: _crowding(tiger, placed, size_hw)))
    return sorted(placed, key=lambda tiger: tiger.center_xy[1] + 0.4 * tiger.body_px)


def _place_tiger(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> Tiger:
    height, width = size_hw
    figure_px = rng.uniform(0.35, (0.85, 0.60, 0.50)[min(count, 3) - 1]) * height
    body_px = min(figure_px / 0.95, 0.52 * width)
    x = rng.uniform(0.2, 0.8) * width
    y = rng.uniform(0.40, 0.95) * height - 0.35 * body_px
    return replace(random_tiger(rng), center_xy=(x, max(y, 0.5 * body_px)), body_px=body_px)


def _crowding(tiger: Tiger, others: Iterable[Tiger], size_hw: tuple[int, int]) -> float:
    """How bad a place is: keypoints outside the picture, and neighbours too near."""
    image_xy = tiger_keypoints(tiger)
    outside = len(image_xy) - int(_inside(image_xy, size_hw).sum())
    near = 0.0
    for other in others:
        reach = 1.0 * (tiger.body_px + other.body_px) * np.array([0.75, 0.45])
        apart = np.abs(np.subtract(tiger.center_xy, other.center_xy)) / reach
        near += max(0.0, 1.0 - float(apart.max()))
    too_few = 100 * (len(image_xy) - outside < FEWEST_LABELS)
    return too_few + 10 * near + 0.15 * outside


def _person_picture(
    rng: np.random.Generator, size_hw: tuple[int, int]
) -> tuple[np.ndarray, Person]:
    height, width = size_hw
    picture = _scenery(rng, size_hw)
    height_px = rng.uniform(0.55, 0.95) * height
    person = replace(
        random_person(rng),
        pelvis_xy=(rng.uniform(0.25, 0.75) * width, rng.uniform(0.45, 0.60) * height),
        height_px=height_px,
    )
    draw_person(picture, person)
    return _photograph(rng, picture), person


def _scenery(rng: np.random.Generator, size_hw: tuple[int, int]) -> np.ndarray:
    """A winter forest: mist, far trunks, snow, birches, rocks and twigs. BGR, uint8."""
    height, width = size_hw
    horizon = int(rng.uniform(0.22, 0.5) * height)
    picture = _mottled(rng, size_hw, np.array(rng.uniform((120, 110, 95), (205, 195, 185))), 18)
    for _ in range(rng.integers(12, 30)):
        _trunk(rng, picture, horizon + rng.uniform(0, 0.05) * height, rng.uniform(0.006, 0.02), far=True)
    picture = cv2.GaussianBlur(picture, (0, 0), 0.004 * height + 0.3)
    snow = _mottled(rng, size_hw, np.array(rng.uniform((195, 190, 185), (250, 245, 240))), 12)
    edge = horizon + 0.02 * height * np.sin(np.arange(width) * 9 / width + rng.uniform(0, 6))
    ground = np.arange(height)[:, None] > edge
    picture[ground] = snow[ground]
    for _ in range(rng.integers(0, 5)):
        _rock(rng, picture, horizon)
    for _ in range(rng.integers(1, 5)):
        foot = rng.uniform(horizon, 0.8 * height)
        _trunk(rng, picture, foot, rng.uniform(0.02, 0.06), far=False)
    _blades(rng, picture, count=int(rng.integers(10, 60)), feet_y=(horizon, height), length=0.08)
    return picture


def _mottled(
    rng: np.random.Generator, size_hw: tuple[int, int], colour: np.ndarray, contrast: float
) -> np.ndarray:
    """A colour with soft blotches."""
    height, width = size_hw
    blotches = rng.normal(0, contrast, (7, 9, 1)) + rng.normal(0, 0.3 * contrast, (7, 9, 3))
    small = np.clip(colour + blotches, 0, 255).astype(np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def _trunk(
    rng: np.random.Generator, picture: np.ndarray, foot_y: float, width_frac: float, *, far: bool
) -> None:
    """A birch (white, with dark marks) or a pine (dark), up out of the picture."""
    height, width = picture.shape[:2]
    x, lean = rng.uniform(0, width), rng.uniform(-0.06, 0.06) * height
    thick = max(1, round(width_frac * width))
    birch = rng.uniform() < 0.6
    tone = rng.uniform(150, 225) if birch else rng.uniform(50, 95)
    if far:
        tone = 0.5 * tone + 65
    foot, top = np.array([x, foot_y]), np.array([x + lean, -5])
    _line(picture, foot, top, (tone, tone, tone * (1.0 if birch else 1.15)), thick)
    if far:
        return
    side = np.array([0.3 * thick, 0])
    _line(picture, foot + side, top + side, (0.8 * tone,) * 3, max(1, thick // 3))
    for at in rng.uniform(0, 1, 14 if birch else 0):
        mark = foot + at * (top - foot) + (rng.uniform(-0.4, 0.1) * thick, 0)
        _line(picture, mark, mark + (0.4 * thick, 0), (60, 58, 60), max(1, thick // 7))


def _rock(rng: np.random.Generator, picture: np.ndarray, horizon: int) -> None:
    height, width = picture.shape[:2]
    middle = (int(rng.uniform(0, width)), int(rng.uniform(horizon, height)))
    half_wh = (rng.uniform((0.03, 0.02), (0.10, 0.06)) * width).astype(int)
    tone = rng.uniform(80, 150)
    cv2.ellipse(picture, middle, half_wh.tolist(), 0, 180, 360, (tone, tone, 0.95 * tone), -1, cv2.LINE_AA)
    cap = (half_wh * (0.9, 0.35)).astype(int)
    top = (middle[0], middle[1] - int(0.75 * half_wh[1]))
    cv2.ellipse(picture, top, cap.tolist(), 0, 180, 360, (245, 240, 236), -1, cv2.LINE_AA)


def _blades(
    rng: np.random.Generator,
    picture: np.ndarray,
    *,
    count: int,
    feet_y: tuple[float, float],
    length: float,
    middle_x: float | None = None,
    also: np.ndarray | None = None,
) -> None:
    """Dry grass and twigs, anywhere or as a tuft around `middle_x`; `also` is marked as covered."""
    height, width = picture.shape[:2]
    for _ in range(count):
        x = rng.uniform(0, width) if middle_x is None else rng.normal(middle_x, 0.04 * width)
        foot = np.array([x, rng.uniform(*feet_y)])
        tip = foot + rng.normal((0, -1), (0.35, 0.3)) * length * height
        b, g, r = rng.uniform((60, 95, 110), (110, 150, 180))
        thick = int(rng.integers(1, 3))
        _line(picture, foot, tip, (b, g, r), thick)
        if also is not None:
            _line(also, foot, tip, (FOREGROUND,), thick)


def _foreground(rng: np.random.Generator, picture: np.ndarray, covers: np.ndarray) -> None:
    """Sometimes grass, seldom a trunk, between the viewer and the tigers."""
    height, width = picture.shape[:2]
    for _ in range(rng.integers(0, 3)):
        _blades(
            rng,
            picture,
            count=int(rng.integers(8, 25)),
            feet_y=(0.8 * height, 1.05 * height),
            length=0.22,
            middle_x=rng.uniform(0, width),
            also=covers,
        )
    if rng.uniform() < 0.15:
        before = picture.copy()
        _trunk(rng, picture, 1.1 * height, rng.uniform(0.03, 0.06), far=False)
        covers[(picture != before).any(axis=-1)] = FOREGROUND


def _line(
    canvas: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    colour: tuple[float, ...],
    thick: int,
) -> None:
    a, b = (np.round(16 * end_xy).astype(int).tolist() for end_xy in (start, end))
    cv2.line(canvas, a, b, colour, thick, cv2.LINE_AA if canvas.ndim == 3 else cv2.LINE_8, 4)


def _photograph(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """What the camera adds: exposure, a colour cast, some blur, noise."""
    if rng.uniform() < 0.4:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.3, 0.9))
    gain = np.float32(rng.uniform(0.75, 1.1) * rng.uniform(0.95, 1.05, 3))
    noise = rng.standard_normal((*picture.shape[:2], 1), np.float32) * rng.uniform(1, 7)
    return np.clip(picture * gain + noise, 0, 255).astype(np.uint8)

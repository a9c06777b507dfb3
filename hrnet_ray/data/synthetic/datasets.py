"""Write synthetic datasets in the file layouts of ATRW and MPII, for the demo and the tests.

The readers treat these folders like downloaded ones. Each image is generated from
`default_rng([seed, image id])`, so it does not depend on the number of images.
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
    SyntheticPerson,
    compute_head_box,
    compute_person_keypoints,
    draw_person,
    sample_person,
)
from hrnet_ray.data.synthetic.scenery import draw_foreground, draw_scenery, simulate_camera
from hrnet_ray.data.synthetic.tigers import (
    SyntheticTiger,
    compute_tiger_keypoints,
    draw_tiger,
    sample_tiger,
)
from hrnet_ray.skeletons import ATRW

JPEG_QUALITY = 92
MIN_KEYPOINTS_INSIDE = 6  # placements with fewer keypoints inside the image are avoided
BODY_FRAC_RANGE_BY_COUNT = {1: (0.35, 0.75), 2: (0.30, 0.50), 3: (0.26, 0.40)}
"""Range of the body length as a fraction of the image height, by the number of tigers in the image."""
FOREGROUND_ID = 255  # value of grass and trunks in a cover map; 0 is background, n the n-th tiger
MPII_JOINT_NAMES = (
    *("rank", "rkne", "rhip", "lhip", "lkne", "lank", "pelv", "thor", "neck", "head"),
    *("rwri", "relb", "rsho", "lsho", "lelb", "lwri"),
)

T = TypeVar("T")
ProgressCallback = Callable[[int, int], None]


def write_tiger_dataset(
    out_dir: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int = 0,
    size_hw: tuple[int, int] = (240, 320),
    tigers_per_image: tuple[int, int] = (1, 3),
    on_progress: ProgressCallback | None = None,
) -> None:
    """Write `num_train` + `num_val` images in ATRW's layout; image ids count from 0 over both splits.

    `on_progress` is called with (images written, total) after each image.
    """

    def write_tiger_image(image_id: int) -> tuple[str, Any]:
        split = "train" if image_id < num_train else "val"
        rng = np.random.default_rng([seed, image_id])
        image, annotations = _render_tiger_image(rng, size_hw, tigers_per_image)
        _write_jpeg(out_dir / "images" / split / f"{image_id:06d}.jpg", image)
        return split, (image_id, annotations)

    _make_dirs(out_dir, "images/train", "images/val", "annotations")
    samples = _map_in_parallel(write_tiger_image, num_train + num_val, on_progress)
    for split in ("train", "val"):
        document = _build_atrw_document([labels for sample_split, labels in samples if sample_split == split], size_hw)
        (out_dir / "annotations" / f"keypoint_{split}.json").write_text(json.dumps(document))


def write_people_dataset(
    out_dir: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int = 0,
    size_hw: tuple[int, int] = (240, 320),
    on_progress: ProgressCallback | None = None,
) -> None:
    """Write `num_train` + `num_val` images of one person each, in the MPII layout of HRNet's authors."""

    def write_person_image(image_id: int) -> tuple[dict[str, Any], np.ndarray]:
        rng = np.random.default_rng([seed, image_id])
        image, person = _render_person_image(rng, size_hw)
        name = f"{image_id:09d}.jpg"
        _write_jpeg(out_dir / "images" / name, image)
        return _build_mpii_record(person, name, size_hw), compute_head_box(person) + 1

    _make_dirs(out_dir, "images", "annot")
    samples = _map_in_parallel(write_person_image, num_train + num_val, on_progress)
    for split, split_samples in (("train", samples[:num_train]), ("valid", samples[num_train:])):
        records = [record for record, _ in split_samples]
        (out_dir / "annot" / f"{split}.json").write_text(json.dumps(records))
    _write_gt_valid(out_dir / "annot" / "gt_valid.mat", samples[num_train:])


def _make_dirs(out_dir: Path, *names: str) -> None:
    for name in names:
        (out_dir / name).mkdir(parents=True, exist_ok=True)


def _map_in_parallel(write_item: Callable[[int], T], count: int, on_progress: ProgressCallback | None) -> list[T]:
    """Call `write_item` for 0 ... count - 1 in threads (cv2 releases the GIL); return results in order."""
    results = []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for result in pool.map(write_item, range(count)):
            results.append(result)
            if on_progress:
                on_progress(len(results), count)
    return results


def _write_jpeg(path: Path, image: np.ndarray) -> None:
    _, jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    path.write_bytes(jpeg.tobytes())


# Annotations.


class TigerAnnotation(NamedTuple):
    """Box, keypoints and labelled mask of one tiger."""

    box_xywh: tuple[int, int, int, int]
    image_xy: np.ndarray
    labeled: np.ndarray


def _build_atrw_document(
    image_annotations: list[tuple[int, list[TigerAnnotation]]], size_hw: tuple[int, int]
) -> dict[str, Any]:
    height, width = size_hw
    images = [{"id": id, "filename": f"{id:06d}.jpg", "width": width, "height": height} for id, _ in image_annotations]
    annotations = [
        _build_atrw_annotation(tiger) | {"image_id": id} for id, tigers in image_annotations for tiger in tigers
    ]
    for id, annotation in enumerate(annotations):  # from 0, as in the real files
        annotation["id"] = id
    return {"images": images, "annotations": annotations, "categories": [_build_atrw_category()]}


def _build_atrw_category() -> dict[str, Any]:
    index_of = ATRW.keypoints.index
    return {
        "id": 1,
        "name": "tiger",
        "supercategory": "animal",
        "keypoints": list(ATRW.keypoints),
        "skeleton": [[index_of(a), index_of(b)] for a, b in ATRW.bones],  # from 0, as in the real files
    }


def _build_atrw_annotation(tiger: TigerAnnotation) -> dict[str, Any]:
    rows = [
        (round(float(x), 2), round(float(y), 2), 2) if labelled else (0, 0, 0)
        for (x, y), labelled in zip(tiger.image_xy, tiger.labeled, strict=True)
    ]
    return {
        "category_id": 1,
        "iscrowd": 0,
        "bbox": list(tiger.box_xywh),
        "area": tiger.box_xywh[2] * tiger.box_xywh[3],
        "keypoints": [value for row in rows for value in row],
        "num_keypoints": int(tiger.labeled.sum()),
    }


def _build_mpii_record(person: SyntheticPerson, image_name: str, size_hw: tuple[int, int]) -> dict[str, Any]:
    image_xy = compute_person_keypoints(person)
    inside = _is_inside_image(image_xy, size_hw)
    joints = np.where(inside[:, None], image_xy + 1, -1.0)  # MPII counts from 1
    middle = (image_xy.min(axis=0) + image_xy.max(axis=0)) / 2 + 1
    return {
        "image": image_name,
        "center": middle.round(2).tolist(),
        "scale": person.height_px / 200,
        "joints": joints.round(2).tolist(),
        "joints_vis": inside.astype(int).tolist(),
    }


def _write_gt_valid(path: Path, records_and_head_boxes: list[tuple[dict[str, Any], np.ndarray]]) -> None:
    """Write the arrays that PCKh is computed from, in the order of valid.json."""
    joints = np.array([record["joints"] for record, _ in records_and_head_boxes]).reshape(-1, 16, 2)
    visible = np.array([record["joints_vis"] for record, _ in records_and_head_boxes]).reshape(-1, 16)
    boxes = np.array([box for _, box in records_and_head_boxes]).reshape(-1, 2, 2)
    content = {
        "dataset_joints": np.array(MPII_JOINT_NAMES, dtype=object)[None],
        "jnt_missing": (1 - visible).T.astype(float),
        "pos_gt_src": joints.transpose(1, 2, 0),
        "headboxes_src": boxes.transpose(1, 2, 0),
    }
    scipy.io.savemat(path, content)


def _is_inside_image(image_xy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    height, width = size_hw
    last = np.array([width - 1, height - 1])
    return np.all((image_xy >= 0) & (image_xy <= last), axis=-1)


# Images.


def _render_tiger_image(
    rng: np.random.Generator, size_hw: tuple[int, int], tigers_per_image: tuple[int, int]
) -> tuple[np.ndarray, list[TigerAnnotation]]:
    image = draw_scenery(rng, size_hw)
    cover_map = np.zeros(size_hw, np.uint8)  # the nearest tiger at each pixel, or FOREGROUND_ID
    tigers = _sample_tiger_layout(rng, size_hw, int(rng.integers(tigers_per_image[0], tigers_per_image[1] + 1)))
    boxes = []
    for number, tiger in enumerate(tigers, start=1):
        silhouette = draw_tiger(image, tiger)
        cover_map[silhouette > 127] = number
        boxes.append(tuple(map(int, cv2.boundingRect(silhouette))))
    cover_map[draw_foreground(rng, image)] = FOREGROUND_ID
    annotations = []
    for number, (tiger, box) in enumerate(zip(tigers, boxes, strict=True), start=1):
        image_xy = compute_tiger_keypoints(tiger)
        annotations.append(TigerAnnotation(box, image_xy, _sample_labeled_mask(rng, image_xy, number, cover_map)))
    return simulate_camera(rng, image), annotations


def _sample_labeled_mask(
    rng: np.random.Generator, image_xy: np.ndarray, tiger_number: int, cover_map: np.ndarray
) -> np.ndarray:
    """Sample which keypoints are labelled: 30 % of those behind grass, none behind another tiger."""
    inside = _is_inside_image(image_xy, cover_map.shape)
    column, row = np.where(inside[:, None], image_xy, 0).round().astype(int).T
    cover = cover_map[row, column]
    guessed = rng.uniform(size=len(inside)) < 0.3
    return inside & ((cover <= tiger_number) | (guessed & (cover == FOREGROUND_ID)))


def _sample_tiger_layout(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> list[SyntheticTiger]:
    """Sample the placement of each tiger; return farther tigers first."""
    placed: list[SyntheticTiger] = []
    occupied_boxes = np.empty((0, 4))
    for _ in range(count):
        tiger, box = _sample_tiger_placement(rng, size_hw, BODY_FRAC_RANGE_BY_COUNT[min(count, 3)], occupied_boxes)
        placed.append(tiger)
        occupied_boxes = np.vstack([occupied_boxes, box])
    return sorted(placed, key=lambda tiger: tiger.center_xy[1] + 0.5 * tiger.body_length_px)


def _sample_tiger_placement(
    rng: np.random.Generator,
    size_hw: tuple[int, int],
    body_frac_range: tuple[float, float],
    occupied_boxes: np.ndarray,
) -> tuple[SyntheticTiger, np.ndarray]:
    """Sample 12 places, and take the best by overlap and keypoints inside the image."""
    height, width = size_hw
    body_px = min(rng.uniform(*body_frac_range) * height, 0.52 * width)
    tiger = replace(sample_tiger(rng), body_length_px=body_px)
    figure_xy = compute_tiger_keypoints(tiger)
    low, high = figure_xy.min(axis=0), figure_xy.max(axis=0)
    nearest_y = height - 0.7 * high[1]  # some paws end below the image
    farthest_y = max(0.45 * height - high[1], -0.6 * low[1])  # all paws are below the horizon
    centers = rng.uniform((0.2 * width, farthest_y), (0.8 * width, nearest_y), (12, 2))
    boxes = np.hstack([centers + low, centers + high])
    inside = _is_inside_image(centers[:, None] + figure_xy, size_hw).sum(axis=-1)
    cost = _compute_covered_fraction(boxes, occupied_boxes) - 0.02 * inside + (inside < MIN_KEYPOINTS_INSIDE)
    best = int(cost.argmin())
    x, y = centers[best].tolist()
    return replace(tiger, center_xy=(x, y)), boxes[best]


def _compute_covered_fraction(boxes: np.ndarray, occupied_boxes: np.ndarray) -> np.ndarray:
    """Compute the fraction of each box [N, 4] (x1, y1, x2, y2) covered by the occupied boxes."""
    low = np.maximum(boxes[:, None, :2], occupied_boxes[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], occupied_boxes[None, :, 2:])
    covered = np.maximum(high - low, 0).prod(axis=-1).sum(axis=-1)
    return covered / (boxes[:, 2:] - boxes[:, :2]).prod(axis=-1)


def _render_person_image(rng: np.random.Generator, size_hw: tuple[int, int]) -> tuple[np.ndarray, SyntheticPerson]:
    height, width = size_hw
    image = draw_scenery(rng, size_hw)
    height_px = rng.uniform(0.55, 0.95) * height
    person = replace(
        sample_person(rng),
        pelvis_xy=(rng.uniform(0.25, 0.75) * width, rng.uniform(0.45, 0.60) * height),
        height_px=height_px,
    )
    draw_person(image, person)
    return simulate_camera(rng, image), person

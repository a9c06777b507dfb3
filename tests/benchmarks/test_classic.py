"""The baseline is the published loader: equal to the published code's own numbers."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.classic import (
    ClassicPoses,
    Recipe,
    affine,
    cut,
    decoded,
    heatmaps,
    loader,
    normalised,
)
from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.images.codec import cv2
from hrnet_ray.pose.augmentation import normalize_imagenet
from hrnet_ray.skeletons import MPII

GOLDEN = Path(__file__).resolve().parents[1] / "parity" / "golden"


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as loaded:
        return dict(loaded)


def hw(size_wh: np.ndarray) -> tuple[int, int]:
    width, height = size_wh.tolist()
    return height, width


def matrices(golden: dict[str, Any]) -> list[np.ndarray]:
    posed = zip(golden["center"], golden["scale"], golden["rotation"].tolist(), strict=True)
    return [affine(*one, input_hw=hw(golden["input_size"])) for one in posed]


def test_the_matrices_are_the_published_ones():
    golden = arrays(GOLDEN / "affine_mpii.npz")

    np.testing.assert_allclose(matrices(golden), golden["matrix"], rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["target_s2", "target_s3"])
def test_the_targets_and_weights_are_the_published_ones(name: str):
    golden = arrays(GOLDEN / f"{name}.npz")

    made = [
        heatmaps(
            crop_xy,
            visible,
            input_hw=hw(golden["input_size"]),
            heatmap_hw=hw(golden["heatmap_size"]),
            sigma=int(golden["sigma"]),
        )
        for crop_xy, visible in zip(golden["joints"], golden["visible"], strict=True)
    ]

    np.testing.assert_array_equal([weights for _, weights in made], golden["weight"])
    np.testing.assert_allclose([maps for maps, _ in made], golden["target"], rtol=0, atol=1e-6)


def test_the_crops_are_the_published_ones_pixel_by_pixel(shared_data: Path):
    path = shared_data.parent / "golden" / "crop_mpii.npz"
    if not path.is_file():
        pytest.skip(f"{path} holds real pixels and is not part of this repository")
    golden = arrays(path)
    picture = decoded((shared_data / "mpii" / str(golden["image"])).read_bytes())

    crops = [cut(picture, one, input_hw=hw(golden["input_size"])) for one in matrices(golden)]

    np.testing.assert_array_equal(crops, golden["crop"])


def test_crops_are_normalised_as_the_model_is_fed():
    crop = np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8)

    ours = normalize_imagenet(torch.from_numpy(crop)[None].permute(0, 3, 1, 2).float() / 255)[0]

    torch.testing.assert_close(normalised(crop), ours, rtol=0, atol=1e-6)


def people(folder: Path, *, mirrored: bool) -> ClassicPoses:
    """Two dots on black, of which one has the name of a left and one of a right ankle."""
    picture = np.zeros((90, 120, 3), np.uint8)
    image_xy = np.zeros((16, 2))
    visible = np.zeros(16, bool)
    for name, (x, y), colour in (("right_ankle", (40, 60), 0), ("left_ankle", (80, 30), 2)):
        picture[y - 1 : y + 2, x - 1 : x + 2, 2 - colour] = 255  # OpenCV writes blue first
        image_xy[MPII.keypoints.index(name)] = x, y
        visible[MPII.keypoints.index(name)] = True
    cv2.imwrite(str(folder / "a.png"), picture)
    one = PoseInstance(
        id=0,
        image_id=0,
        image="a.png",
        category_id=1,
        box_xywh=(30.0, 15.0, 64.0, 64.0),
        area=4096.0,
        head_size=math.nan,
        image_xy=image_xy,
        visible=visible,
    )
    recipe = Recipe(
        flip_order=MPII.flip_order,
        input_hw=(128, 128),
        heatmap_hw=(32, 32),
        sigma=1,
        flip_share=1.0 if mirrored else -1.0,
    )
    return ClassicPoses([one] * 8, folder, recipe)


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_keypoint_peaks_where_its_dot_is_bright(tmp_path: Path, mirrored: bool):
    poses = people(tmp_path, mirrored=mirrored)
    red, blue = MPII.keypoints.index("right_ankle"), MPII.keypoints.index("left_ankle")
    if mirrored:
        red, blue = blue, red

    for at in range(len(poses)):
        crop, maps, weights = poses[at]

        assert weights[:, 0].nonzero()[:, 0].tolist() == sorted([red, blue])
        for keypoint, channel in ((red, 0), (blue, 2)):
            dot = torch.stack(torch.where(crop[channel] > crop[channel].max() * 0.6)).float()
            peak = divmod(int(maps[keypoint].argmax()), 32)
            assert (dot.mean(1) / 4 - torch.tensor(peak)).abs().max() <= 1


def test_two_workers_give_every_sample_once(tmp_path: Path):
    batches = list(loader(people(tmp_path, mirrored=False), size=3, workers=2))

    assert [len(crops) for crops, _, _ in batches] == [3, 3, 2]
    assert batches[0][1].shape == (3, 16, 32, 32)


def test_workers_draw_numbers_of_their_own(tmp_path: Path):
    poses = people(tmp_path, mirrored=False)
    poses.recipe = replace(poses.recipe, rotation_share=1.0)  # no two turns are the same

    batches = list(loader(poses, size=3, workers=2))

    crops = torch.cat([crops for crops, _, _ in batches]).flatten(1)
    assert len(crops.unique(dim=0)) == 8

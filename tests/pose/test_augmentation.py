"""Augmentation: reproducible samples, published distributions, and warps as in OpenCV and kornia."""

import hashlib
import math

import cv2
import kornia
import numpy as np
import pytest
import torch
from torch import Tensor

from hrnet_ray.config import AugmentationConfig
from hrnet_ray.pose.augmentation import (
    AffineParams,
    apply_color_jitter,
    apply_half_body_transform,
    flip_keypoints,
    normalize_imagenet,
    sample_affine_params,
    sample_normal,
    sample_uniform,
    warp_images,
)
from hrnet_ray.pose.geometry import crop_from_image, transform_points

UPPER_BODY = (3, 4, 5, 6)
INPUT_HW = (64, 48)
ROW_IDS = torch.arange(200_000)


def test_uniform_numbers_equal_splitmix64():
    # The reference uses Python integers modulo 2**64, as in the paper.
    samples = sample_uniform(torch.tensor([0, 7, -5, 2**40]), seed=3, epoch=9, purpose="x", count=2)

    assert (samples.double() * 2**24).long().tolist() == [
        _compute_splitmix64(number, b"3/9/x", count=2) for number in (0, 7, -5, 2**40)
    ]


def test_samples_of_a_row_do_not_depend_on_other_rows():
    ids = torch.tensor([5, 17, 3, 900])

    together = sample_uniform(ids, seed=1, epoch=2, purpose="x", count=4)

    for place, alone in enumerate(ids):
        single = sample_uniform(alone[None], seed=1, epoch=2, purpose="x", count=4)
        assert torch.equal(together[place], single[0])
    fewer = sample_uniform(ids.flip(0), seed=1, epoch=2, purpose="x", count=2)
    assert torch.equal(fewer.flip(0), together[:, :2])


@pytest.mark.parametrize("other", [{"seed": 2}, {"epoch": 1}, {"purpose": "y"}])
def test_another_seed_epoch_or_purpose_gives_uncorrelated_numbers(other: dict[str, int | str]):
    usual = {"seed": 1, "epoch": 0, "purpose": "x", "count": 1}

    pair = [sample_uniform(ROW_IDS, **how)[:, 0] for how in (usual, usual | other)]

    assert abs(torch.corrcoef(torch.stack(pair))[0, 1]) < 0.01


def test_adjacent_ids_and_columns_are_uncorrelated_and_uniform():
    samples = sample_uniform(ROW_IDS, seed=1, epoch=0, purpose="x", count=2)

    assert samples.min() >= 0
    assert samples.max() < 1
    counts = torch.histc(samples, bins=50, min=0, max=1)
    expected = samples.numel() / 50
    assert ((counts - expected) ** 2 / expected).sum() < 49 + 4 * math.sqrt(2 * 49)
    correlation = torch.corrcoef(torch.stack([samples[:-1, 0], samples[1:, 0], samples[:-1, 1]]))
    assert (correlation - torch.eye(3)).abs().max() < 0.01


def test_normal_numbers_have_the_moments_of_the_normal_distribution():
    samples = sample_normal(ROW_IDS, seed=1, epoch=0, purpose="x", count=2).double()

    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert abs((samples**power).mean() - moment) < 0.05
    assert abs(torch.corrcoef(samples.T)[0, 1]) < 0.01


def test_zero_augmentation_keeps_center_scale_and_orientation():
    params = _sample_params(
        100, AugmentationConfig(scale_factor=0.0, rotation_deg=0.0, rotation_prob=0.0, flip_prob=0.0)
    )

    assert torch.equal(params.center_xy, torch.full((100, 2), 50.0))
    assert torch.equal(params.scale_wh, torch.tensor([[0.6, 0.8]] * 100))
    assert params.rotation_deg.eq(0).all()
    assert not params.mirrored.any()


def test_affine_params_follow_the_published_distributions():
    params = _sample_params(20_000, AugmentationConfig())

    zoom = params.scale_wh[:, 0] / 0.6
    assert 0.75 <= zoom.min() < 0.7501
    assert 1.2499 < zoom.max() <= 1.25001
    assert abs(zoom.le(0.7501).float().mean() - 0.1587) < 0.01  # fraction of normal samples below -1
    rotated = params.rotation_deg != 0
    assert abs(rotated.float().mean() - 0.6) < 0.01
    assert params.rotation_deg.abs().max() == 60.0
    below_one_std = params.rotation_deg[rotated].abs() < 30
    assert abs(below_one_std.float().mean() - 0.6827) < 0.01
    assert abs(params.mirrored.float().mean() - 0.5) < 0.01


def test_shift_is_relative_to_the_sides_and_limited_and_changes_nothing_else():
    still = _sample_params(20_000, AugmentationConfig())
    shifted = _sample_params(20_000, AugmentationConfig(shift_factor=0.04))

    sides_wh = torch.tensor([0.6, 0.8]) * 200
    shift = (shifted.center_xy - still.center_xy) / sides_wh
    assert abs(shift.abs().max() - 0.08) < 1e-5
    within_one_std = shift.abs().le(0.04).float().mean(0)
    assert (within_one_std - 0.6827).abs().max() < 0.01
    assert abs(torch.corrcoef(shift.T)[0, 1]) < 0.03
    for name in ("scale_wh", "rotation_deg", "mirrored"):
        assert torch.equal(getattr(shifted, name), getattr(still, name))


def test_scale_rotation_and_mirroring_are_independent():
    params = _sample_params(20_000, AugmentationConfig(rotation_prob=1.0))

    values = torch.stack([params.scale_wh[:, 0], params.rotation_deg, params.mirrored.float()])
    assert (torch.corrcoef(values) - torch.eye(3)).abs().max() < 0.03


def test_the_same_epoch_is_reproduced_and_the_next_one_differs():
    first, again, later = (_sample_params(50, AugmentationConfig(), epoch=epoch) for epoch in (4, 4, 5))

    assert torch.equal(first.scale_wh, again.scale_wh)
    assert torch.equal(first.rotation_deg, again.rotation_deg)
    assert not torch.equal(first.scale_wh, later.scale_wh)


def test_69_percent_of_half_bodies_are_upper_bodies():
    params = _sample_params(20_000, AugmentationConfig(scale_factor=0.0, half_body_prob=1.0, half_body_min_visible=7))

    upper = params.center_xy[:, 1] < 50
    assert abs(upper.float().mean() - 0.6915) < 0.01


def test_half_body_center_is_the_mean_and_scale_is_1_5_times_the_extent():
    center_xy, scale_wh = _apply_half_body(_make_pose(), prefers_upper=True)

    # The upper keypoints span 20 x 20 px; the aspect ratio of 3/4 extends this to 20 x 26.7.
    assert center_xy.tolist() == [[50.0, 27.5]]
    torch.testing.assert_close(scale_wh, torch.tensor([[0.15, 0.2]]))


def test_lower_body_holds_all_keypoints_outside_the_upper_body():
    center_xy, _ = _apply_half_body(_make_pose(), prefers_upper=False)

    torch.testing.assert_close(center_xy, torch.tensor([[50.0, 80.0]]))


@pytest.mark.parametrize(
    ("hidden", "prefers_upper", "takes"),
    [
        ((3, 4), True, "lower"),  # 2 upper keypoints are too few
        ((0,), False, "upper"),  # 2 lower keypoints are too few
        ((0, 3, 4), False, "upper"),  # neither half has 3: the upper one is used with 2
        ((0, 3, 4, 5), False, "whole"),  # 1 upper keypoint is too few
    ],
)
def test_half_body_needs_three_visible_keypoints(hidden: tuple[int, ...], prefers_upper: bool, takes: str):
    visible = torch.ones(1, 7) > 0
    visible[0, list(hidden)] = False

    center_xy, scale_wh = _apply_half_body(_make_pose(), visible, prefers_upper=prefers_upper, above=0)

    half = {
        "upper": [k for k in (3, 4, 5, 6) if visible[0, k]],
        "lower": [k for k in (0, 1, 2) if visible[0, k]],
    }
    if takes == "whole":
        assert (center_xy.tolist(), scale_wh.tolist()) == ([[1.0, 2.0]], [[3.0, 4.0]])
    else:
        torch.testing.assert_close(center_xy, _make_pose()[:, half[takes]].mean(1))


def test_poses_with_too_few_visible_keypoints_are_not_halved():
    _, same = _apply_half_body(_make_pose(), prefers_upper=True, above=7)
    _, halved = _apply_half_body(_make_pose(), prefers_upper=True, above=6)

    assert same.tolist() == [[3.0, 4.0]]
    assert halved.tolist() != same.tolist()


def test_half_body_ignores_a_hidden_nan_keypoint():
    visible = torch.ones(1, 7) > 0
    visible[0, 3] = False
    image_xy = _make_pose()
    image_xy[0, 3] = math.nan

    center_xy, scale_wh = _apply_half_body(image_xy, visible, prefers_upper=True, above=0)

    torch.testing.assert_close(center_xy, _make_pose()[:, 4:].mean(1))
    assert scale_wh.isfinite().all()


def test_warp_moves_a_pixel_to_the_position_given_by_the_matrix():
    canvases = torch.zeros(2, 50, 40, 3, dtype=torch.uint8)
    canvases[:, 30, 10, 0] = 255
    params = AffineParams(
        center_xy=torch.tensor([[20.0, 25.0]] * 2),
        scale_wh=torch.tensor([[0.24, 0.32]] * 2),
        rotation_deg=torch.tensor([0.0, 0.0]),
        mirrored=torch.tensor([False, True]),
    )
    matrix = params.crop_from_image(crop_hw=INPUT_HW)  # a scale of 1

    crops = warp_images(canvases, matrix, crop_hw=INPUT_HW)

    crop_xy = transform_points(matrix, torch.tensor([[[10.0, 30.0]]] * 2))[:, 0].tolist()
    assert crop_xy == [[14.0, 37.0], [34.0, 37.0]]
    for crop, (x, y) in zip(crops, crop_xy, strict=True):
        assert crop[0, int(y), int(x)].item() == pytest.approx(1.0, abs=1e-4)
        assert crop.sum().item() == pytest.approx(1.0, abs=1e-3)


def test_identity_warp_keeps_pixels_and_is_black_outside():
    canvases = _make_noise(1, 37, 29)

    crops = warp_images(canvases, torch.eye(3)[None], crop_hw=(40, 50))

    grey_levels = crops[0].permute(1, 2, 0) * 255
    torch.testing.assert_close(grey_levels[:37, :29], canvases[0].float(), atol=0.01, rtol=0)
    assert grey_levels[38:].eq(0).all()
    assert grey_levels[:, 30:].eq(0).all()


def test_warp_agrees_with_opencv():
    canvases, matrix = _make_smooth_images(5), _sample_matrices(5)

    crops = warp_images(canvases, matrix, crop_hw=INPUT_HW).permute(0, 2, 3, 1) * 255

    for crop, canvas, to_crop in zip(crops.numpy(), canvases.numpy(), matrix.double(), strict=True):
        expected = cv2.warpAffine(canvas, to_crop[:2].numpy(), INPUT_HW[::-1]).astype(np.float32)
        assert np.abs(crop - expected).mean() < 0.3
        assert np.abs(crop - expected).max() < 4  # OpenCV rounds positions to 1/32 px


def test_warp_agrees_with_kornia():
    canvases, matrix = _make_smooth_images(5), _sample_matrices(5)
    planes = canvases.permute(0, 3, 1, 2).float() / 255

    crops = warp_images(canvases, matrix, crop_hw=INPUT_HW)

    expected = kornia.geometry.warp_affine(planes, matrix[:, :2], INPUT_HW, align_corners=True)
    torch.testing.assert_close(crops, expected, atol=2e-4, rtol=0)


def test_warping_a_batch_equals_warping_each_canvas():
    canvases, matrix = _make_noise(11, 50, 40), _sample_matrices(11)  # 11 is not a multiple of CPU_CHUNK_SIZE

    together = warp_images(canvases, matrix, crop_hw=INPUT_HW)

    alone = [warp_images(canvases[i : i + 1], matrix[i : i + 1], crop_hw=INPUT_HW) for i in range(11)]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-6, rtol=0)


def test_flipping_keypoints_twice_is_the_identity():
    crop_xy = torch.rand(4, 3, 2, generator=torch.Generator().manual_seed(0))
    visible = torch.tensor([[True, False, True]] * 4)
    options = {"mirrored": torch.tensor([True, False, True, True]), "flip_order": (1, 0, 2)}

    once = flip_keypoints(crop_xy, visible, **options)
    twice = flip_keypoints(*once, **options)

    assert once[0][0].tolist() == crop_xy[0, [1, 0, 2]].tolist()
    assert once[1].tolist() == [[i == 1, i != 1, True] for i in range(4)]
    assert torch.equal(twice[0], crop_xy)
    assert torch.equal(twice[1], visible)


def test_left_and_right_keypoints_are_exchanged_in_a_mirrored_image():
    image_xy = torch.tensor([[[10.0, 30.0], [30.0, 30.0]]])  # left, right
    matrix = crop_from_image(
        torch.tensor([[20.0, 25.0]]),
        torch.tensor([[0.24, 0.32]]),
        torch.tensor([0.0]),
        crop_hw=INPUT_HW,
        mirrored=torch.tensor([True]),
    )

    crop_xy, _ = flip_keypoints(
        transform_points(matrix, image_xy),
        torch.ones(1, 2) > 0,
        mirrored=torch.tensor([True]),
        flip_order=(1, 0),
    )

    assert crop_xy.tolist() == [[[14.0, 37.0], [34.0, 37.0]]]


def test_zero_color_jitter_returns_the_same_tensor():
    crops = _make_crops()

    assert _apply_jitter(crops, AugmentationConfig()) is crops


def test_brightness_multiplies_each_crop_by_its_own_factor():
    crops = _make_crops() * 0.5

    factor = _apply_jitter(crops, AugmentationConfig(brightness=0.4)) / crops

    per_crop = factor.flatten(1)
    torch.testing.assert_close(per_crop.amin(1), per_crop.amax(1))
    assert 0.6 <= per_crop.min() < 0.8
    assert 1.2 < per_crop.max() <= 1.4


def test_contrast_keeps_the_mean_gray_and_saturation_keeps_the_gray_of_each_pixel():
    crops = 0.4 + 0.2 * _make_crops()  # far from black and white, so that nothing is clamped

    contrast = _apply_jitter(crops, AugmentationConfig(contrast=0.4))
    saturation = _apply_jitter(crops, AugmentationConfig(saturation=0.4))

    grey = kornia.color.rgb_to_grayscale
    torch.testing.assert_close(grey(contrast).mean((1, 2, 3)), grey(crops).mean((1, 2, 3)))
    torch.testing.assert_close(grey(saturation), grey(crops))
    assert (contrast - crops).abs().max() > 0.01
    assert (saturation - crops).abs().max() > 0.01


def test_color_jitter_stays_in_0_to_1():
    crops = _apply_jitter(_make_crops(), AugmentationConfig(brightness=0.9, contrast=0.9, saturation=0.9))

    assert (crops.min(), crops.max()) == (0.0, 1.0)


def test_imagenet_normalization_of_the_mean_and_of_white():
    mean = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None]

    assert normalize_imagenet(mean).flatten().tolist() == [0.0, 0.0, 0.0]
    assert normalize_imagenet(torch.ones(1, 3, 1, 1)).flatten().tolist() == pytest.approx(
        [2.248908, 2.428571, 2.640000], abs=1e-5
    )


def _compute_splitmix64(number: int, key: bytes, *, count: int) -> list[int]:
    def mix(state: int) -> int:
        state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
        return state ^ (state >> 31)

    offset = int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")
    start = mix((number + offset) % 2**64)
    return [mix((start + step * 0x9E3779B97F4A7C15) % 2**64) >> 40 for step in range(1, count + 1)]


def _make_pose() -> Tensor:
    lower = [[40.0, 70.0], [50.0, 80.0], [60.0, 90.0]]
    upper = [[40.0, 20.0], [60.0, 20.0], [45.0, 30.0], [55.0, 40.0]]
    return torch.tensor([lower + upper])


def _apply_half_body(
    image_xy: Tensor, visible: Tensor | None = None, *, prefers_upper: bool, above: int = 6
) -> tuple[Tensor, Tensor]:
    return apply_half_body_transform(
        image_xy,
        torch.ones(1, 7) > 0 if visible is None else visible,
        torch.tensor([[1.0, 2.0]]),
        torch.tensor([[3.0, 4.0]]),
        upper_body_keypoints=UPPER_BODY,
        aspect_ratio=3 / 4,
        min_visible=above + 1,
        selected=torch.tensor([True]),
        prefers_upper=torch.tensor([prefers_upper]),
    )


def _sample_params(count: int, augmentation: AugmentationConfig, *, epoch: int = 0) -> AffineParams:
    return sample_affine_params(
        torch.arange(count),
        seed=1,
        epoch=epoch,
        image_xy=_make_pose().expand(count, -1, -1),
        visible=torch.ones(count, 7) > 0,
        center_xy=torch.full((count, 2), 50.0),
        scale_wh=torch.tensor([[0.6, 0.8]]).repeat(count, 1),
        upper_body_keypoints=UPPER_BODY,
        augmentation=augmentation,
        input_hw=INPUT_HW,
    )


def _make_noise(count: int, height: int, width: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, height, width, 3), generator=generator, dtype=torch.uint8)


def _make_smooth_images(count: int) -> Tensor:
    """Make blurred noise, whose neighboring pixels are similar as in photographs."""
    blurred = [cv2.GaussianBlur(image, (9, 9), 0) for image in _make_noise(count, 90, 70).numpy()]
    return torch.from_numpy(np.stack(blurred))


def _sample_matrices(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return crop_from_image(
        torch.rand(count, 2, generator=generator) * 20 + 30,
        torch.rand(count, 1, generator=generator).add(0.5).mul(0.4).expand(-1, 2),
        torch.rand(count, generator=generator) * 120 - 60,
        crop_hw=INPUT_HW,
        mirrored=torch.arange(count) % 2 == 0,
    )


def _make_crops() -> Tensor:
    return torch.rand(40, 3, 6, 5, generator=torch.Generator().manual_seed(3))


def _apply_jitter(crops: Tensor, augmentation: AugmentationConfig) -> Tensor:
    return apply_color_jitter(crops, torch.arange(len(crops)), seed=1, epoch=0, augmentation=augmentation)

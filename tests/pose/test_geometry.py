"""Geometry: compared with OpenCV's three-point solution, mirroring, and round trips."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from hrnet_ray.pose.geometry import (
    box_to_center_scale,
    compute_heatmap_from_crop,
    crop_from_image,
    invert_affine,
    transform_points,
)

CROP_HW = (256, 192)
IMAGE_W = 640

coordinates = st.floats(0, 2000)
sizes = st.floats(0.05, 10)
rotations = st.floats(-180, 180)


def test_a_wide_box_is_padded_vertically_to_the_aspect_ratio():
    box = torch.tensor([[100.0, 50.0, 300.0, 40.0]])

    center_xy, scale_wh = box_to_center_scale(box, input_hw=(256, 192), padding=1.25)

    assert center_xy.tolist() == [[250.0, 70.0]]
    torch.testing.assert_close(scale_wh, torch.tensor([[300 * 1.25 / 200, 400 * 1.25 / 200]]))


def test_a_tall_box_is_padded_horizontally_to_the_aspect_ratio():
    box = torch.tensor([[100.0, 50.0, 30.0, 400.0]])

    _, scale_wh = box_to_center_scale(box, input_hw=(256, 192), padding=1.0)

    torch.testing.assert_close(scale_wh, torch.tensor([[300 / 200, 400 / 200]]))


def test_crop_matrix_maps_the_center_to_the_crop_center_and_the_scale_to_its_width():
    center_xy, scale_wh = torch.tensor([[300.0, 200.0]]), torch.tensor([[0.96, 1.28]])
    matrix = crop_from_image(center_xy, scale_wh, torch.zeros(1), crop_hw=CROP_HW)

    corners_xy = transform_points(matrix, torch.tensor([[[300.0, 200.0], [204.0, 72.0], [396.0, 328.0]]]))

    torch.testing.assert_close(
        corners_xy, torch.tensor([[[96.0, 128.0], [0.0, 0.0], [192.0, 256.0]]]), atol=1e-4, rtol=0
    )


def test_a_positive_rotation_turns_the_image_counterclockwise():
    center_xy, scale_wh = torch.tensor([[300.0, 200.0]]), torch.tensor([[0.96, 1.28]])
    matrix = crop_from_image(center_xy, scale_wh, torch.tensor([90.0]), crop_hw=CROP_HW)

    right_of_center = transform_points(matrix, torch.tensor([[[310.0, 200.0]]]))

    torch.testing.assert_close(right_of_center, torch.tensor([[[96.0, 118.0]]]), atol=1e-4, rtol=0)


@settings(max_examples=100)
@given(x=coordinates, y=coordinates, size=sizes, turn=rotations)
def test_crop_matrix_equals_opencvs_solution_of_the_published_three_points(
    x: float, y: float, size: float, turn: float
):
    published = _compute_published_matrix((x, y), size, turn)

    matrix = _make_matrix(x, y, size, turn)

    np.testing.assert_allclose(matrix[0, :2].numpy(), published, rtol=1e-7, atol=1e-7)


@settings(max_examples=100)
@given(x=coordinates, y=coordinates, size=sizes, turn=rotations)
def test_mirrored_crop_equals_flipping_image_and_center_first(x: float, y: float, size: float, turn: float):
    flipped_from_image = torch.diag(torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64))
    flipped_from_image[0, 2] = IMAGE_W - 1
    flipped_first = _make_matrix(IMAGE_W - 1 - x, y, size, turn) @ flipped_from_image

    matrix = _make_matrix(x, y, size, turn, mirrored=True)

    corners_xy = torch.tensor([[[0, 0], [192, 0], [0, 256], [192, 256]]], dtype=torch.float64)
    landed_xy = transform_points(flipped_first, transform_points(invert_affine(matrix), corners_xy))
    # Not equal to the last bit: the published code rounds both centers to float32 (6e-5 px between 1,024
    # and 2,047), and the crop magnifies the error by 192 / (200 * size).
    assert (landed_xy - corners_xy).abs().max() < 5e-3 + 2e-4 * CROP_HW[1] / (200 * size)


def test_only_mirrored_instances_of_a_batch_are_mirrored():
    center_xy, scale_wh = torch.tensor([[300.0, 200.0]] * 2), torch.tensor([[0.96, 1.28]] * 2)
    matrix = crop_from_image(
        center_xy,
        scale_wh,
        torch.tensor([20.0, 0.0]),
        crop_hw=CROP_HW,
        mirrored=torch.tensor([False, True]),
    )
    plain = crop_from_image(center_xy, scale_wh, torch.tensor([20.0, 0.0]), crop_hw=CROP_HW)

    assert torch.equal(matrix[0], plain[0])
    image_xy = torch.tensor([[[310.0, 205.0]], [[310.0, 205.0]]])
    torch.testing.assert_close(transform_points(matrix, image_xy)[1], torch.tensor([[86.0, 133.0]]), atol=1e-4, rtol=0)


def test_heatmap_matrix_is_the_crop_matrix_divided_by_four():
    crop = _make_matrix(311.0, 207.0, 1.7, 25.0)
    heatmap = crop_from_image(
        torch.tensor([[311.0, 207.0]], dtype=torch.float64),
        torch.tensor([[1.7, 1.7]], dtype=torch.float64),
        torch.tensor([25.0], dtype=torch.float64),
        crop_hw=(64, 48),
    )

    product = compute_heatmap_from_crop(crop_hw=CROP_HW, heatmap_hw=(64, 48), like=crop) @ crop

    torch.testing.assert_close(product, heatmap)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-9)])
def test_inverse_matrix_restores_the_points(dtype: torch.dtype, tolerance: float):
    center_xy = torch.tensor([[300.0, 200.0], [1200.0, 700.0]], dtype=dtype)
    scale_wh = torch.tensor([[0.96, 1.28], [3.0, 4.0]], dtype=dtype)
    rotation_deg = torch.tensor([33.0, -71.0], dtype=dtype)
    image_xy = torch.rand(2, 5, 2, dtype=dtype, generator=torch.Generator().manual_seed(0)) * 1000

    matrix = crop_from_image(center_xy, scale_wh, rotation_deg, crop_hw=CROP_HW)
    back = transform_points(invert_affine(matrix), transform_points(matrix, image_xy))

    assert matrix.dtype == dtype
    assert (back - image_xy).abs().max() < tolerance


def test_invert_affine_equals_torch_inverse():
    matrix = torch.cat([_make_matrix(311.0, 207.0, 1.7, 25.0), _make_matrix(5.0, 1207.0, 0.2, -95.0)])

    torch.testing.assert_close(invert_affine(matrix), matrix.inverse())


def test_float32_crop_matrix_is_accurate_to_1e_4():
    exact = _make_matrix(1833.3, 977.7, 3.3, 41.0)
    single = crop_from_image(
        torch.tensor([[1833.3, 977.7]]),
        torch.tensor([[3.3, 3.3]]),
        torch.tensor([41.0]),
        crop_hw=CROP_HW,
    )

    assert (single.double() - exact).abs().max() < 1e-4


def _make_matrix(x: float, y: float, size: float, turn: float, *, mirrored: bool = False) -> Tensor:
    return crop_from_image(
        torch.tensor([[x, y]], dtype=torch.float64),
        torch.tensor([[size, size]], dtype=torch.float64),
        torch.tensor([turn], dtype=torch.float64),
        crop_hw=CROP_HW,
        mirrored=torch.tensor([mirrored]),
    )


def _compute_published_matrix(center_xy: tuple[float, float], size: float, turn_deg: float) -> np.ndarray:
    """Solve the three point pairs of the published code by OpenCV."""
    height, width = CROP_HW
    turn = np.pi * turn_deg / 180
    up = np.array([np.sin(turn), -np.cos(turn)]) * size * 200 * 0.5
    image = np.float32([center_xy, np.array(center_xy) + up])
    crop = np.float32([[width / 2, height / 2], [width / 2, height / 2 - width / 2]])
    return cv2.getAffineTransform(*(_add_third_point(points) for points in (image, crop)))


def _add_third_point(points: np.ndarray) -> np.ndarray:
    down = points[0] - points[1]
    return np.float32([*points, points[1] + np.float32([-down[1], down[0]])])

"""Heatmaps: exact small cases, the published loop, OpenCV's blur, and round trips."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from hrnet_ray.pose.heatmaps import average_flipped_heatmaps, decode_heatmaps, encode_heatmaps

INPUT_HW, HEATMAP_HW = (64, 48), (16, 12)  # 16 rows, 12 columns


def test_encoding_peaks_with_height_one_in_the_cell_of_the_keypoint():
    heatmap = _encode_one(12.0, 20.0, sigma=1.0)[0]

    assert heatmap[5, 3] == 1.0
    assert heatmap.argmax() == 5 * 12 + 3
    assert heatmap[5, 4].item() == pytest.approx(math.exp(-1 / 2))
    assert heatmap[6, 4].item() == pytest.approx(math.exp(-1))


def test_encoding_is_cut_three_sigmas_from_the_center():
    heatmap = _encode_one(24.0, 32.0, sigma=1.0)[0]  # cell (6, 8)

    assert (heatmap > 0).nonzero().amin(0).tolist() == [5, 3]
    assert (heatmap > 0).nonzero().amax(0).tolist() == [11, 9]
    assert heatmap[11, 9].item() == pytest.approx(math.exp(-9))


@pytest.mark.parametrize(("x", "cell"), [(-5.9, 0), (1.9, 0), (2.0, 1), (5.9, 1), (6.0, 2), (40.0, 10)])
def test_encoding_truncates_the_center_towards_zero(x: float, cell: int):
    heatmap = _encode_one(x, 20.0, sigma=1.0)[0]

    assert heatmap[5].argmax() == cell
    assert heatmap[5, cell] == 1.0


@pytest.mark.parametrize(
    ("x", "weight", "highest"),
    [
        (-14.1, 1.0, math.exp(-9 / 2)),  # cell -3: the square ends in column 0
        (-17.9, 1.0, math.exp(-9 / 2)),  # cell -4.475 + 0.5 is truncated to -3
        (-18.0, 1.0, 0.0),  # cell -4: the square ends in column -1, which counts as inside
        (-22.0, 0.0, 0.0),  # cell -5: outside
        (57.9, 1.0, math.exp(-9 / 2)),  # cell 14: the square starts in the last column
        (58.0, 0.0, 0.0),  # cell 15: outside
    ],
)
def test_weight_is_zero_only_if_the_square_is_outside_the_heatmap(x: float, weight: float, highest: float):
    heatmap, weights = _encode_one(x, 20.0, sigma=1.0)

    assert weights == weight
    assert heatmap.max().item() == pytest.approx(highest)


@settings(max_examples=200)
@given(x=st.floats(-40, 100), y=st.floats(-40, 100), sigma=st.integers(1, 3))
def test_encoding_with_integer_sigma_equals_the_published_loop(x: float, y: float, sigma: int):
    target, weight = _encode_as_published(x, y, sigma)

    heatmap, weights = _encode_one(x, y, sigma=sigma)

    np.testing.assert_allclose(heatmap.numpy(), target, rtol=0, atol=1e-6)
    assert weights == weight


@pytest.mark.parametrize("sigma", [0.7, 1.5, 2.4, 7 / 3])
def test_encoding_with_fractional_sigma_is_symmetric(sigma: float):
    heatmap = _encode_one(24.0, 32.0, sigma=sigma)[0]  # cell (6, 8)

    around = heatmap[2:15, 1:12]
    torch.testing.assert_close(around, around.flip(0), rtol=0, atol=0)
    torch.testing.assert_close(around, around.flip(1), rtol=0, atol=0)
    reach = int((heatmap[8] > 0).nonzero().amax()) - 6
    assert reach == min(5, math.floor(3 * sigma + 1e-9))
    assert heatmap[8, 8].item() == pytest.approx(math.exp(-4 / (2 * sigma**2)))


def test_unrounded_encoding_keeps_the_fraction_and_is_not_cut():
    heatmap, weight = _encode_one(13.0, 21.0, sigma=1.0, rounded=False)  # (3.25, 5.25)

    x, y = torch.meshgrid(torch.arange(12.0), torch.arange(16.0), indexing="xy")
    expected = torch.exp(-((x - 3.25) ** 2 + (y - 5.25) ** 2) / 2)
    torch.testing.assert_close(heatmap, expected.double(), rtol=1e-5, atol=1e-12)
    assert weight == 1.0


def test_encoding_of_a_hidden_nan_keypoint_is_empty():
    crop_xy = torch.tensor([[[math.nan, 3.0], [12.0, 20.0]]])

    heatmaps, weights = encode_heatmaps(
        crop_xy,
        torch.tensor([[False, True]]),
        input_hw=INPUT_HW,
        heatmap_hw=HEATMAP_HW,
        sigma=2.0,
    )

    assert heatmaps[0, 0].eq(0).all()
    assert heatmaps[0, 1].max() == 1.0
    assert weights.tolist() == [[0.0, 1.0]]


def test_fractional_visibility_is_the_weight_and_renders_above_one_half():
    crop_xy = torch.tensor([[[12.0, 20.0], [12.0, 20.0], [400.0, 20.0]]])

    heatmaps, weights = encode_heatmaps(
        crop_xy,
        torch.tensor([[0.5, 0.75, 0.75]]),
        input_hw=INPUT_HW,
        heatmap_hw=HEATMAP_HW,
        sigma=2.0,
    )

    assert weights.tolist() == [[0.5, 0.75, 0.0]]
    assert heatmaps.amax((-2, -1)).tolist() == [[0.0, 1.0, 0.0]]


def test_argmax_decoding_returns_the_first_of_equal_peaks():
    heatmaps = torch.zeros(1, 1, 8, 6)
    heatmaps[0, 0, 3, 4] = heatmaps[0, 0, 5, 1] = 0.5

    heatmap_xy, scores = decode_heatmaps(heatmaps, method="argmax")

    assert heatmap_xy.tolist() == [[[4.0, 3.0]]]
    assert scores.tolist() == [[0.5]]


@pytest.mark.parametrize("method", ["argmax", "quarter", "dark"])
@pytest.mark.parametrize("height", [0.0, -1.0])
def test_decoding_a_heatmap_without_a_positive_value_returns_the_origin(method: str, height: float):
    heatmap_xy, scores = decode_heatmaps(torch.full((1, 1, 8, 6), height), method=method)

    assert heatmap_xy.tolist() == [[[0.0, 0.0]]]
    assert scores.tolist() == [[height]]


def test_quarter_decoding_moves_towards_the_higher_neighbor_on_each_axis():
    heatmaps = torch.zeros(1, 1, 8, 6)
    heatmaps[0, 0, 4, 3] = 1.0
    heatmaps[0, 0, 4, 2] = 0.3
    heatmaps[0, 0, 5, 3] = 0.2

    heatmap_xy, _ = decode_heatmaps(heatmaps, method="quarter")

    assert heatmap_xy.tolist() == [[[2.75, 4.25]]]


def test_quarter_decoding_does_not_move_between_equal_neighbors():
    heatmaps = torch.zeros(1, 1, 8, 6)
    heatmaps[0, 0, 4, 3] = 1.0

    assert decode_heatmaps(heatmaps, method="quarter")[0].tolist() == [[[3.0, 4.0]]]


@pytest.mark.parametrize(
    ("column", "row", "moved"),
    [(1, 4, False), (2, 4, True), (4, 4, True), (5, 4, False), (3, 1, False), (3, 7, False)],
)
def test_quarter_decoding_does_not_move_peaks_in_row_or_column_one(column: int, row: int, moved: bool):
    heatmaps = torch.zeros(1, 1, 8, 6)
    heatmaps[0, 0, row, column] = 1.0
    heatmaps[0, 0, row, column - 1] = 0.5

    (x, y), *_ = decode_heatmaps(heatmaps, method="quarter")[0][0].tolist()

    assert (x, y) == (column - 0.25 * moved, row)


def test_decoding_refuses_an_unknown_method():
    with pytest.raises(ValueError, match="method must be one of argmax, quarter, dark, got 'best'"):
        decode_heatmaps(torch.zeros(1, 1, 8, 6), method="best")


@settings(max_examples=60)
@given(x=st.floats(24, 160), y=st.floats(24, 220))
def test_dark_decoding_recovers_an_unrounded_center_to_a_hundredth_of_a_cell(x: float, y: float):
    heatmaps, _ = encode_heatmaps(
        torch.tensor([[[x, y]]]),
        torch.tensor([[True]]),
        input_hw=(256, 192),
        heatmap_hw=(64, 48),
        sigma=2.0,
        rounded=False,
    )

    heatmap_xy, _ = decode_heatmaps(heatmaps, method="dark")

    assert (heatmap_xy[0, 0] - torch.tensor([x / 4, y / 4])).abs().max() < 0.01


@pytest.mark.parametrize("kernel", [11, 17])
def test_dark_decoding_equals_darkpose_with_opencv_blur(kernel: int):
    rng = np.random.default_rng(kernel)
    maps = cv2.GaussianBlur(rng.random((48, 36, 12)).astype(np.float32) ** 4, (9, 9), 0)
    maps = maps.transpose(2, 0, 1) - 0.05

    heatmap_xy, _ = decode_heatmaps(torch.from_numpy(maps.copy())[None], method="dark", kernel_size=kernel)

    expected = [_decode_with_darkpose(heatmap, kernel) for heatmap in maps]
    np.testing.assert_allclose(heatmap_xy[0].numpy(), expected, rtol=0, atol=2e-3)


def test_averaging_with_flipped_heatmaps_returns_the_original():
    heatmaps = torch.rand(2, 3, 8, 6, generator=torch.Generator().manual_seed(0))
    order = (1, 0, 2)

    merged = average_flipped_heatmaps(heatmaps, heatmaps.flip(-1)[:, list(order)], flip_order=order, shift=False)

    assert torch.equal(merged, heatmaps)


def test_flip_shift_moves_mirrored_heatmaps_right_and_repeats_column_zero():
    mirrored = torch.zeros(1, 2, 2, 4)
    mirrored[0, 1] = torch.tensor([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])

    merged = average_flipped_heatmaps(torch.zeros(1, 2, 2, 4), mirrored, flip_order=[1, 0])

    assert (2 * merged[0, 0]).tolist() == [[4.0, 4.0, 3.0, 2.0], [8.0, 8.0, 7.0, 6.0]]
    assert merged[0, 1].eq(0).all()


def test_encoding_a_batch_equals_encoding_each_keypoint():
    crop_xy = torch.rand(3, 5, 2, generator=torch.Generator().manual_seed(1)) * 60 - 5
    visible = torch.rand(3, 5, generator=torch.Generator().manual_seed(2)) > 0.3
    sizes = {"input_hw": INPUT_HW, "heatmap_hw": HEATMAP_HW, "sigma": 2.0}

    together, weights = encode_heatmaps(crop_xy, visible, **sizes)

    for row in range(3):
        for keypoint in range(5):
            one = slice(row, row + 1), slice(keypoint, keypoint + 1)
            alone, weight = encode_heatmaps(crop_xy[one], visible[one], **sizes)
            assert torch.equal(together[one], alone)
            assert torch.equal(weights[one], weight)


def _encode_one(x: float, y: float, **how: float) -> tuple[Tensor, Tensor]:
    heatmaps, weights = encode_heatmaps(
        torch.tensor([[[x, y]]], dtype=torch.float64),
        torch.tensor([[True]]),
        input_hw=INPUT_HW,
        heatmap_hw=HEATMAP_HW,
        **how,
    )
    return heatmaps[0, 0], weights[0, 0]


def _encode_as_published(x: float, y: float, sigma: int) -> tuple[np.ndarray, float]:
    """Encode one heatmap cell by cell, by the definition of the published target."""
    height, width = HEATMAP_HW
    mu_x, mu_y = int(x / 4 + 0.5), int(y / 4 + 0.5)
    reach = 3 * sigma
    missed = mu_x - reach >= width or mu_y - reach >= height
    missed = missed or mu_x + reach + 1 < 0 or mu_y + reach + 1 < 0
    target = np.zeros(HEATMAP_HW)
    for row in range(max(0, mu_y - reach), min(height, mu_y + reach + 1)):
        for column in range(max(0, mu_x - reach), min(width, mu_x + reach + 1)):
            square = (row - mu_y) ** 2 + (column - mu_x) ** 2
            target[row, column] = math.exp(-square / (2 * sigma**2))
    return target, float(not missed)


def _decode_with_darkpose(heatmap: np.ndarray, kernel: int) -> tuple[float, float]:
    """Decode one heatmap by the formulas of DarkPose."""
    row, column = np.unravel_index(heatmap.argmax(), heatmap.shape)
    x, y = int(column), int(row)
    rim = kernel // 2
    blurred = cv2.GaussianBlur(np.pad(heatmap, rim), (kernel, kernel), 0)[rim:-rim, rim:-rim]
    logs = np.log(np.maximum(blurred * heatmap.max() / blurred.max(), 1e-10)).astype(np.float64)
    if not (1 < x < heatmap.shape[1] - 2 and 1 < y < heatmap.shape[0] - 2):
        return x, y
    slope = 0.5 * np.array([logs[y, x + 1] - logs[y, x - 1], logs[y + 1, x] - logs[y - 1, x]])
    xx = 0.25 * (logs[y, x + 2] - 2 * logs[y, x] + logs[y, x - 2])
    yy = 0.25 * (logs[y + 2, x] - 2 * logs[y, x] + logs[y - 2, x])
    cross = logs[y + 1, x + 1] - logs[y - 1, x + 1] - logs[y + 1, x - 1] + logs[y - 1, x - 1]
    hessian = np.array([[xx, 0.25 * cross], [0.25 * cross, yy]])
    step = -np.linalg.solve(hessian, slope)
    return x + step[0], y + step[1]

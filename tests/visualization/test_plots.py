"""Plots are read back: what they show must be where the numbers say."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.skeletons import Skeleton
from hrnet_ray.visualization.crop_grid import TILE_HEIGHT_PX, TRUTH_COLOR, draw_crop_grid
from hrnet_ray.visualization.drawing import LEFT_COLOR, RIGHT_COLOR
from hrnet_ray.visualization.plots import plot_per_keypoint, plot_training_curves

TOES = Skeleton(name="toes", keypoints=("left_toe", "right_toe"))
GAP = 6  # of a sheet
ZOOM = 8  # a crop of 28 x 20 pixels on a tile of 224 x 160
ORANGE, BLUE = (0xC8, 0x50, 0x2D), (0x2D, 0x6E, 0xC8)


def places(picture: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """(x, y) of all pixels of a colour, [N, 2]."""
    return np.argwhere((picture == colour).all(-1))[:, ::-1]


def sheet_of_one(*, predicted: np.ndarray, truth: np.ndarray, visible: tuple[bool, bool] = (True, True)) -> np.ndarray:
    crop_from_image = np.array([[0.5, 0, -20], [0, 0.5, -30], [0, 0, 1]])
    return draw_crop_grid(
        [np.zeros((28, 20, 3), np.uint8)],
        crop_from_image[None],
        (predicted[None] + (20, 30)) * 2,  # from crop to image pixels
        (truth[None] + (20, 30)) * 2,
        np.array([visible]),
        TOES,
    )


def on_sheet(crop_xy: np.ndarray) -> np.ndarray:
    """The middle of a crop's pixel, which is now a square of 8 x 8."""
    return (crop_xy + 0.5) * ZOOM - 0.5 + GAP


def test_a_true_point_is_drawn_at_the_middle_of_its_enlarged_pixel():
    truth = np.array([[10.0, 7.0], [4.0, 21.0]])

    page = sheet_of_one(predicted=truth + 6, truth=truth, visible=(False, True))

    assert page.shape == (TILE_HEIGHT_PX + 2 * GAP, 160 + 2 * GAP, 3)
    white = places(page, TRUTH_COLOR)
    near = white[np.abs(white - on_sheet(truth[1])).max(axis=1) < 6]
    assert np.abs(near.mean(axis=0) - on_sheet(truth[1])).max() <= 0.5
    assert not (np.abs(white - on_sheet(truth[0])).max(axis=1) < 6).any()  # hidden


def test_predictions_are_coloured_by_their_side():
    predicted = np.array([[5.0, 20.0], [15.0, 6.0]])

    page = sheet_of_one(predicted=predicted, truth=np.array([[12.0, 24.0], [3.0, 3.0]]))

    for xy, colour in zip(predicted, (LEFT_COLOR, RIGHT_COLOR), strict=True):
        assert np.abs(places(page, colour).mean(axis=0) - on_sheet(xy)).max() <= 0.5


def test_curves_show_a_loss_that_falls_and_a_score_that_rises(tmp_path: Path):
    epochs = [
        {"epoch": 0.0, "train/loss": 0.1},
        {"epoch": 1.0, "train/loss": 0.01, "val/OKS_AP": 0.2},
        {"epoch": 2.0, "train/loss": 0.001, "val/OKS_AP": 0.9},
    ]

    plot_training_curves(tmp_path / "plots" / "curves.png", epochs, "OKS_AP")

    picture = codec.read_image(tmp_path / "plots" / "curves.png")
    loss, score = places(picture, ORANGE), places(picture, BLUE)
    assert loss[:, 0].max() < score[:, 0].min()  # side by side
    assert loss[loss[:, 0].argmin(), 1] < loss[loss[:, 0].argmax(), 1] - 100  # y grows downwards
    assert score[score[:, 0].argmin(), 1] > score[score[:, 0].argmax(), 1] + 100


def test_curves_of_a_run_that_was_never_scored_show_its_loss(tmp_path: Path):
    epochs = [{"epoch": 0.0, "train/loss": 0.1}, {"epoch": 1.0, "train/loss": 0.05}]

    plot_training_curves(tmp_path / "curves.png", epochs, "OKS_AP")

    picture = codec.read_image(tmp_path / "curves.png")
    assert len(places(picture, ORANGE)) > 100
    assert len(places(picture, BLUE)) == 0


def test_bars_are_as_long_as_their_scores_and_the_first_keypoint_is_on_top(tmp_path: Path):
    plot_per_keypoint(tmp_path / "bars.png", {"nose": 0.25, "left_ear": 1.0, "tail": 0.5}, metric="OKS")

    blue = places(codec.read_image(tmp_path / "bars.png"), BLUE)
    rows = np.unique(blue[:, 1])
    bars = np.split(rows, np.flatnonzero(np.diff(rows) > 1) + 1)
    lengths = [np.ptp(blue[np.isin(blue[:, 1], bar), 0]) for bar in bars]
    assert lengths == pytest.approx([lengths[1] / 4, lengths[1], lengths[1] / 2], abs=2)
    assert lengths[1] > 300

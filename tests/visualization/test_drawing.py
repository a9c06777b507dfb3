import numpy as np
import pytest

from hrnet_ray.skeletons import SKELETONS, Skeleton
from hrnet_ray.visualization.drawing import (
    LEFT,
    MIDDLE,
    PAPER,
    RIGHT,
    draw_pose,
    fitted,
    glow,
    moved,
    over,
    sheet,
    side_colour,
)

DOG = Skeleton(
    name="dog",
    keypoints=("left_leg", "right_leg", "nose"),
    bones=(("left_leg", "nose"), ("right_leg", "nose")),
)
GREY = np.full((60, 80, 3), 128, np.uint8)
XY = np.array([[10.0, 50.0], [70.0, 50.0], [40.0, 10.0]])


@pytest.mark.parametrize("name", SKELETONS)
def test_a_mirror_exchanges_the_colours_of_the_sides(name: str):
    skeleton = SKELETONS[name]
    mirror = {LEFT: RIGHT, RIGHT: LEFT, MIDDLE: MIDDLE}

    colours = [side_colour(keypoint) for keypoint in skeleton.keypoints]

    assert [colours[at] for at in skeleton.flip_order] == [mirror[colour] for colour in colours]


@pytest.mark.parametrize("name", SKELETONS)
def test_what_is_called_left_is_warm_and_what_is_called_right_is_cool(name: str):
    for keypoint in SKELETONS[name].keypoints:
        side = {"left": LEFT, "right": RIGHT}.get(keypoint.split("_")[0], MIDDLE)
        assert side_colour(keypoint) == side


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("right_leg", RIGHT),
        ("lip_right", RIGHT),
        ("R_Lip", RIGHT),
        ("Right Lower Leg", RIGHT),
        ("knee-left", LEFT),
        ("L.Ear", LEFT),
        ("EYE_L", LEFT),
        ("left", MIDDLE),  # a side of nothing has no mirror image
        ("lip", MIDDLE),
        ("tail_", MIDDLE),
    ],
)
def test_only_the_word_that_is_a_side_tells_the_colour(name: str, colour: tuple):
    assert side_colour(name) == colour


def test_a_keypoint_is_drawn_in_the_colour_of_its_side_where_it_lies():
    drawn = draw_pose(GREY, XY, np.array([True, True, True]), DOG)

    assert drawn[50, 10].tolist() == list(LEFT)
    assert drawn[50, 70].tolist() == list(RIGHT)
    assert drawn[10, 40].tolist() == list(MIDDLE)


def test_a_bone_has_the_colour_of_its_side():
    drawn = draw_pose(GREY, XY, np.array([True, True, True]), DOG, thickness=3)

    assert drawn[30, 25].tolist() == list(LEFT)
    assert drawn[30, 55].tolist() == list(RIGHT)


def test_nothing_is_drawn_for_a_hidden_keypoint_nor_to_it():
    drawn = draw_pose(GREY, XY, np.array([False, True, False]), DOG)

    assert (drawn[:, :60] == 128).all()
    assert (drawn[:45] == 128).all()
    assert (draw_pose(GREY, XY, np.zeros(3, bool), DOG) == GREY).all()


def test_the_given_picture_stays_as_it_is():
    draw_pose(GREY, XY, np.ones(3, bool), DOG)

    assert (GREY == 128).all()


def test_a_plain_pose_has_one_colour():
    drawn = draw_pose(GREY, XY, np.ones(3, bool), DOG, plain=(0, 0, 0))

    assert (drawn[..., 0] == drawn[..., 1]).all()
    assert (drawn[..., 0] == drawn[..., 2]).all()
    assert drawn[50, 10].tolist() == [0, 0, 0]


def test_a_point_that_is_no_number_or_far_away_breaks_nothing():
    away = np.array([[np.nan, np.inf], [1e12, -1e12], [40, 10]])

    drawn = draw_pose(GREY, away, np.array([True, True, True]), DOG)

    assert drawn[10, 40].tolist() == list(MIDDLE)


def test_heat_glows_where_the_map_is_high_and_nowhere_else():
    heat = np.zeros((2, 15, 20), np.float32)
    heat[1, :5, :5] = 1

    glowing = over(GREY, heat)

    assert glowing[0, 0].tolist() == [223, 77, 47]  # a quarter of 128, three of (255, 60, 20)
    assert (glowing[40:, 40:] == 128).all()


def test_a_sheet_has_room_for_its_tiles_gaps_and_captions():
    tiles = [np.full((10, 20, 3), at, np.uint8) for at in range(5)]

    bare = sheet(tiles, columns=2, gap=6)
    told = sheet(tiles, columns=2, gap=6, captions=["a", "b", "c", "d", "e"])

    assert bare.shape == (3 * (10 + 6) + 6, 2 * (20 + 6) + 6, 3)
    assert told.shape == (3 * (10 + 16 + 6) + 6, 2 * (20 + 6) + 6, 3)
    assert (bare[38:48, 6:26] == 4).all()  # the fifth tile starts the third row
    assert (bare[38:48, 32:52] == PAPER).all()
    assert (told[6 + 10 : 6 + 10 + 16, 6:26].min(axis=(0, 1)) < 128).all()  # its caption


def test_a_sheet_of_one_tile_is_one_tile_wide():
    assert sheet([np.zeros((10, 20, 3), np.uint8)], columns=4, gap=1).shape == (12, 22, 3)


@pytest.mark.parametrize("picture_hw", [(40, 100), (100, 40), (8, 10), (300, 7)])
def test_a_fitted_picture_keeps_its_shape_and_the_matrix_leads_into_it(picture_hw: tuple[int, int]):
    height, width = picture_hw
    picture = np.zeros((*picture_hw, 3), np.uint8)

    tile, into = fitted(picture, size_hw=(50, 70))

    rows, columns = np.nonzero((tile == 0).all(axis=2))
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    (left, top), (right, bottom) = moved(into, corners)
    assert tile.shape == (50, 70, 3)
    assert (rows.min() - 0.5, rows.max() + 0.5) == pytest.approx((top, bottom))
    assert (columns.min() - 0.5, columns.max() + 0.5) == pytest.approx((left, right))
    assert max((bottom - top) / 50, (right - left) / 70) == pytest.approx(1)
    assert abs((bottom - top) - height * min(50 / height, 70 / width)) <= 0.5


def test_heatmaps_glow_in_the_colour_of_their_side():
    pair = Skeleton("pair", ("left_paw", "right_paw"))
    heatmaps = np.zeros((2, 6, 8), np.float32)
    heatmaps[0, 1, 2] = heatmaps[1, 4, 5] = 1.0

    shown = glow(np.full((24, 32, 3), 100, np.uint8), heatmaps, pair)

    assert tuple(shown[4 * 1, 4 * 2]) == LEFT
    assert tuple(shown[4 * 4, 4 * 5]) == RIGHT
    assert tuple(shown[0, 31]) == (40, 40, 40)  # the crop, dimmed


def test_what_is_no_number_does_not_glow():
    pair = Skeleton("pair", ("left_paw", "right_paw"))
    heatmaps = np.full((2, 6, 8), np.nan, np.float32)
    heatmaps[1, 2, 3] = np.inf

    shown = glow(np.full((24, 32, 3), 100, np.uint8), heatmaps, pair)

    assert tuple(shown[4 * 2, 4 * 3]) == RIGHT
    assert tuple(shown[0, 0]) == (40, 40, 40)

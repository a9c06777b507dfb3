import numpy as np
import pytest

from hrnet_ray.skeletons import SKELETONS, Skeleton
from hrnet_ray.visualization.drawing import (
    BACKGROUND_COLOR,
    LEFT_COLOR,
    MIDDLE_COLOR,
    RIGHT_COLOR,
    draw_pose,
    infer_keypoint_color,
    overlay_heatmaps,
    overlay_heatmaps_by_side,
    render_image_grid,
    resize_to_fit,
    transform_points,
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
    mirror = {LEFT_COLOR: RIGHT_COLOR, RIGHT_COLOR: LEFT_COLOR, MIDDLE_COLOR: MIDDLE_COLOR}

    colours = [infer_keypoint_color(keypoint) for keypoint in skeleton.keypoints]

    assert [colours[at] for at in skeleton.flip_order] == [mirror[colour] for colour in colours]


@pytest.mark.parametrize("name", SKELETONS)
def test_what_is_called_left_is_warm_and_what_is_called_right_is_cool(name: str):
    for keypoint in SKELETONS[name].keypoints:
        side = {"left": LEFT_COLOR, "right": RIGHT_COLOR}.get(keypoint.split("_")[0], MIDDLE_COLOR)
        assert infer_keypoint_color(keypoint) == side


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("right_leg", RIGHT_COLOR),
        ("lip_right", RIGHT_COLOR),
        ("R_Lip", RIGHT_COLOR),
        ("Right Lower Leg", RIGHT_COLOR),
        ("knee-left", LEFT_COLOR),
        ("L.Ear", LEFT_COLOR),
        ("EYE_L", LEFT_COLOR),
        ("left", MIDDLE_COLOR),  # a side of nothing has no mirror image
        ("lip", MIDDLE_COLOR),
        ("tail_", MIDDLE_COLOR),
    ],
)
def test_only_the_word_that_is_a_side_tells_the_colour(name: str, colour: tuple):
    assert infer_keypoint_color(name) == colour


def test_a_keypoint_is_drawn_in_the_colour_of_its_side_where_it_lies():
    drawn = draw_pose(GREY, XY, np.array([True, True, True]), DOG)

    assert drawn[50, 10].tolist() == list(LEFT_COLOR)
    assert drawn[50, 70].tolist() == list(RIGHT_COLOR)
    assert drawn[10, 40].tolist() == list(MIDDLE_COLOR)


def test_a_bone_has_the_colour_of_its_side():
    drawn = draw_pose(GREY, XY, np.array([True, True, True]), DOG, thickness=3)

    assert drawn[30, 25].tolist() == list(LEFT_COLOR)
    assert drawn[30, 55].tolist() == list(RIGHT_COLOR)


def test_nothing_is_drawn_for_a_hidden_keypoint_nor_to_it():
    drawn = draw_pose(GREY, XY, np.array([False, True, False]), DOG)

    assert (drawn[:, :60] == 128).all()
    assert (drawn[:45] == 128).all()
    assert (draw_pose(GREY, XY, np.zeros(3, bool), DOG) == GREY).all()


def test_the_given_picture_stays_as_it_is():
    draw_pose(GREY, XY, np.ones(3, bool), DOG)

    assert (GREY == 128).all()


def test_a_plain_pose_has_one_colour():
    drawn = draw_pose(GREY, XY, np.ones(3, bool), DOG, single_color=(0, 0, 0))

    assert (drawn[..., 0] == drawn[..., 1]).all()
    assert (drawn[..., 0] == drawn[..., 2]).all()
    assert drawn[50, 10].tolist() == [0, 0, 0]


def test_a_point_that_is_no_number_or_far_away_breaks_nothing():
    away = np.array([[np.nan, np.inf], [1e12, -1e12], [40, 10]])

    drawn = draw_pose(GREY, away, np.array([True, True, True]), DOG)

    assert drawn[10, 40].tolist() == list(MIDDLE_COLOR)


def test_heat_glows_where_the_map_is_high_and_nowhere_else():
    heat = np.zeros((2, 15, 20), np.float32)
    heat[1, :5, :5] = 1

    glowing = overlay_heatmaps(GREY, heat)

    assert glowing[0, 0].tolist() == [223, 77, 47]  # a quarter of 128, three of (255, 60, 20)
    assert (glowing[40:, 40:] == 128).all()


def test_a_sheet_has_room_for_its_tiles_gaps_and_captions():
    tiles = [np.full((10, 20, 3), at, np.uint8) for at in range(5)]

    bare = render_image_grid(tiles, columns=2, gap_px=6)
    told = render_image_grid(tiles, columns=2, gap_px=6, captions=["a", "b", "c", "d", "e"])

    assert bare.shape == (3 * (10 + 6) + 6, 2 * (20 + 6) + 6, 3)
    assert told.shape == (3 * (10 + 16 + 6) + 6, 2 * (20 + 6) + 6, 3)
    assert (bare[38:48, 6:26] == 4).all()  # the fifth tile starts the third row
    assert (bare[38:48, 32:52] == BACKGROUND_COLOR).all()
    assert (told[6 + 10 : 6 + 10 + 16, 6:26].min(axis=(0, 1)) < 128).all()  # its caption


def test_a_sheet_of_one_tile_is_one_tile_wide():
    assert render_image_grid([np.zeros((10, 20, 3), np.uint8)], columns=4, gap_px=1).shape == (
        12,
        22,
        3,
    )


@pytest.mark.parametrize("picture_hw", [(40, 100), (100, 40), (8, 10), (300, 7)])
def test_a_fitted_picture_keeps_its_shape_and_the_matrix_leads_into_it(picture_hw: tuple[int, int]):
    height, width = picture_hw
    picture = np.zeros((*picture_hw, 3), np.uint8)

    tile, into = resize_to_fit(picture, size_hw=(50, 70))

    rows, columns = np.nonzero((tile == 0).all(axis=2))
    corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]])
    (left, top), (right, bottom) = transform_points(into, corners)
    assert tile.shape == (50, 70, 3)
    assert (rows.min() - 0.5, rows.max() + 0.5) == pytest.approx((top, bottom))
    assert (columns.min() - 0.5, columns.max() + 0.5) == pytest.approx((left, right))
    assert max((bottom - top) / 50, (right - left) / 70) == pytest.approx(1)
    assert abs((bottom - top) - height * min(50 / height, 70 / width)) <= 0.5


def test_heatmaps_glow_in_the_colour_of_their_side():
    pair = Skeleton("pair", ("left_paw", "right_paw"))
    heatmaps = np.zeros((2, 6, 8), np.float32)
    heatmaps[0, 1, 2] = heatmaps[1, 4, 5] = 1.0

    shown = overlay_heatmaps_by_side(np.full((24, 32, 3), 100, np.uint8), heatmaps, pair)

    assert tuple(shown[4 * 1, 4 * 2]) == LEFT_COLOR
    assert tuple(shown[4 * 4, 4 * 5]) == RIGHT_COLOR
    assert tuple(shown[0, 31]) == (40, 40, 40)  # the crop, dimmed


def test_what_is_no_number_does_not_glow():
    pair = Skeleton("pair", ("left_paw", "right_paw"))
    heatmaps = np.full((2, 6, 8), np.nan, np.float32)
    heatmaps[1, 2, 3] = np.inf

    shown = overlay_heatmaps_by_side(np.full((24, 32, 3), 100, np.uint8), heatmaps, pair)

    assert tuple(shown[4 * 2, 4 * 3]) == RIGHT_COLOR
    assert tuple(shown[0, 0]) == (40, 40, 40)

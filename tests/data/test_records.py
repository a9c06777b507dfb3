import math
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hrnet_ray.data.annotations import PoseInstance
from hrnet_ray.data.images import codec
from hrnet_ray.data.records import (
    LABEL_COLUMNS,
    Arrays,
    add_intact_column,
    build_arrow_schema,
    build_cropped_record,
    build_full_image_record,
    crop_region,
    decode_eval_batch,
    decode_train_batch,
    get_label_columns,
)

BIG_HW = (450, 600)


def noise(*, size_hw: tuple[int, int] = (30, 40)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*size_hw, 3), dtype=np.uint8)


def png(picture: np.ndarray) -> bytes:
    return cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))[1].tobytes()


def instance(box_xywh: tuple = (4, 3, 20, 16), **changes) -> PoseInstance:
    usual = {
        "id": 7,
        "image_id": 3,
        "image": "a.png",
        "category_id": 2,
        "box_xywh": tuple(map(float, box_xywh)),
        "area": 320.5,
        "head_size": math.nan,
        "image_xy": np.array([[5.25, 6.0], [0.0, 0.0], [0.1, 1e5 / 3]]),
        "visible": np.array([True, False, True]),
    }
    return PoseInstance(**{**usual, **changes})


def table(*made: dict) -> pa.Table:
    return pa.Table.from_pylist(list(made), schema=build_arrow_schema(3))


def test_a_picture_that_is_not_what_was_prepared_is_found_and_read_as_nothing():
    rows = table(*(build_full_image_record(instance(id=at), png(noise())) for at in range(4)))
    cut, other = rows["picture"][1].as_py()[:-9], png(noise(size_hw=(9, 9)))
    pictures_now = [rows["picture"][0].as_py(), cut, other, rows["picture"][3].as_py()]
    rows = rows.set_column(rows.column_names.index("picture"), "picture", pa.array(pictures_now, pa.binary()))

    found = add_intact_column(rows)

    assert found["intact"].to_pylist() == [True, False, False, True]
    assert decode_train_batch(found, canvas_px=48)["readable"].tolist() == [
        True,
        False,
        False,
        True,
    ]
    exact = decode_eval_batch(found, input_hw=(32, 32), padding=1.25)
    assert exact["readable"].tolist() == [True, False, False, True]
    assert not exact["crop"][2].any()


def test_a_digest_that_is_no_text_any_more_vouches_for_nothing():
    rows = table(build_full_image_record(instance(), png(noise())))
    broken = pa.array([b"\xff" * 64], pa.binary()).view(pa.string())
    at = rows.column_names.index("stored_sha256")

    assert add_intact_column(rows.set_column(at, "stored_sha256", broken))["intact"].to_pylist() == [False]


def region_of(picture: np.ndarray, box_xywh: tuple, *, canvas_px: int) -> pa.Table:
    row = build_cropped_record(instance(box_xywh), png(picture), picture, canvas_px=canvas_px)
    return table(row)


def dotted(xy: tuple[int, int]) -> np.ndarray:
    """A big black image with a bright square of 13 px about (x, y)."""
    picture = np.zeros((*BIG_HW, 3), np.uint8)
    x, y = xy
    picture[y - 6 : y + 7, x - 6 : x + 7] = 255
    return picture


def brightest(canvas: np.ndarray) -> np.ndarray:
    """The middle (x, y) of what is bright."""
    bright = canvas.astype(float).mean(axis=2)
    bright[bright < 64] = 0
    ys, xs = np.indices(bright.shape)
    return np.array([(bright * xs).sum(), (bright * ys).sum()]) / bright.sum()


def assert_same(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name, strict=True)


BOXES = {
    "in the middle": ((200, 150, 160, 120), (310, 170)),
    "the whole image": ((0, 0, 599, 449), (40, 430)),
    "at the upper left border": ((-30, -20, 200, 150), (20, 15)),
    "at the lower right border": ((480, 300, 160, 200), (570, 430)),
}


@pytest.mark.parametrize(("box", "dot_xy"), BOXES.values(), ids=BOXES)
@pytest.mark.parametrize("canvas_px", [64, 101])
def test_a_dot_is_found_where_the_matrix_moves_it(box: tuple, dot_xy: tuple, canvas_px: int):
    found = decode_train_batch(region_of(dotted(dot_xy), box, canvas_px=canvas_px), canvas_px=canvas_px)

    moved = found["canvas_from_image"][0] @ [*dot_xy, 1]
    assert np.abs(brightest(found["canvas"][0]) - moved[:2]).max() < 0.5


@pytest.mark.parametrize(("box", "dot_xy"), BOXES.values(), ids=BOXES)
def test_a_canvas_smaller_than_what_is_stored_is_reduced_again(box: tuple, dot_xy: tuple):
    stored = region_of(dotted(dot_xy), box, canvas_px=200)

    found = decode_train_batch(stored, canvas_px=72)

    moved = found["canvas_from_image"][0] @ [*dot_xy, 1]
    assert found["canvas"].shape == (1, 72, 72, 3)
    assert np.abs(brightest(found["canvas"][0]) - moved[:2]).max() < 0.5
    # What was cut out still spans the canvas, from edge to edge.
    shrink = decode_train_batch(stored, canvas_px=200)["canvas_from_image"][0, 0, 0] * 72 / 200
    assert found["canvas_from_image"][0, 0, 0] == pytest.approx(shrink, rel=0.01)


def test_a_region_covers_the_padded_box_by_two_fifths_more_and_fits_the_canvas():
    region, region_from_image = crop_region(noise(size_hw=BIG_HW), (200.0, 150.0, 160.0, 120.0), canvas_px=70)

    # 160 * 1.25 * 1.4 = 280 px about (280, 210), at a quarter.
    assert region.shape == (70, 70, 3)
    assert region_from_image.tolist() == [[0.25, 0, -35.375], [0, 0.25, -17.875], [0, 0, 1]]


def test_a_small_region_is_cut_but_never_enlarged():
    picture = noise(size_hw=BIG_HW)

    region, region_from_image = crop_region(picture, (300.0, 200.0, 8.0, 16.0), canvas_px=416)

    # 16 * 1.25 * 1.4 = 28 px about (304, 208).
    assert (region == picture[194:222, 290:318]).all()
    assert region_from_image.tolist() == [[1, 0, -290], [0, 1, -194], [0, 0, 1]]


def test_a_picture_that_fits_is_stored_byte_for_byte():
    picture = noise()
    data = png(picture)

    row = build_cropped_record(instance((2, 2, 36, 26)), data, picture, canvas_px=40)

    assert row["picture"] == data
    assert row["stored_from_image"] == np.eye(3).ravel().tolist()
    assert row["sha256"] == codec.hash_bytes(data)


def test_a_region_is_stored_as_a_jpeg_with_the_fingerprint_of_the_original():
    picture = noise()

    row = build_cropped_record(instance((2, 2, 5, 5)), png(picture), picture, canvas_px=40)

    assert row["picture"][:2] == b"\xff\xd8"
    assert row["sha256"] == codec.hash_bytes(png(picture))


@pytest.mark.parametrize("box", [(900, 900, 10, 10), (-500, 5, 20, 20), (10, 10, 0, 0)])
def test_a_box_that_shows_nothing_still_makes_a_row(box: tuple):
    found = decode_train_batch(region_of(noise(), box, canvas_px=16), canvas_px=16)

    assert found["readable"].tolist() == [True]
    assert (found["canvas"][0, 1:, 1:] == 0).all()


def test_a_long_thin_picture_keeps_at_least_one_row_of_pixels():
    region, _ = crop_region(noise(size_hw=(2, 400)), (0.0, 0.0, 400.0, 2.0), canvas_px=50)

    assert region.shape == (1, 50, 3)


def test_a_canvas_is_the_picture_and_black_beyond_it():
    picture = noise()

    found = decode_train_batch(region_of(picture, (0, 0, 40, 30), canvas_px=48), canvas_px=48)

    assert (found["canvas"][0, :30, :40] == picture).all()
    assert (found["canvas"][0, 30:] == 0).all()
    assert (found["canvas"][0, :, 40:] == 0).all()
    assert (found["canvas_from_image"] == np.eye(3)).all()


def test_labels_stay_in_pixels_of_the_original_picture():
    found = decode_train_batch(region_of(dotted((300, 200)), (200, 150, 160, 120), canvas_px=32), canvas_px=32)

    assert found["image_xy"].tolist() == [instance().image_xy.tolist()]
    assert found["visible"].tolist() == [[True, False, True]]
    assert found["box_xywh"].tolist() == [[200, 150, 160, 120]]
    assert found["area"].tolist() == [320.5]
    assert np.isnan(found["head_size"]).all()
    assert [found[name].tolist() for name in ("id", "image_id", "category_id")] == [[7], [3], [2]]


def published_matrix(box_xywh: tuple, input_hw: tuple[int, int]) -> np.ndarray:
    """get_affine_transform of the published code (lib/utils/transforms.py), for an upright crop."""
    x, y, w, h = box_xywh
    height, width = input_hw
    aspect = width / height
    w, h = max(w, h * aspect), max(h, w / aspect)
    center = np.array([x + box_xywh[2] * 0.5, y + box_xywh[3] * 0.5])
    scale_w = w / 200 * 1.25 * 200

    def three(middle: np.ndarray, above: np.ndarray) -> np.ndarray:
        points = np.zeros((3, 2), np.float32)
        points[0], points[1] = middle, middle + above
        down = points[0] - points[1]
        points[2] = points[1] + np.array([-down[1], down[0]], np.float32)
        return points

    image = three(center, np.array([0, scale_w * -0.5]))
    crop = three(np.array([width * 0.5, height * 0.5]), np.array([0, width * -0.5]))
    return cv2.getAffineTransform(image, crop)


CROPPED = [(20.5, 11, 60, 33), (-10, -5, 50, 100), (70, 50, 49, 39)]


@pytest.mark.parametrize(("input_hw", "off_by"), [((64, 48), 0), ((40, 40), 0), ((48, 64), 1)])
def test_an_exact_crop_is_one_warp_of_the_original_with_the_published_matrix(input_hw: tuple[int, int], off_by: int):
    picture = noise(size_hw=(90, 120))
    exact = table(*(build_full_image_record(instance(box), png(picture)) for box in CROPPED))

    found = decode_eval_batch(exact, input_hw=input_hw, padding=1.25)

    for crop, ours, box in zip(found["crop"], found["crop_from_image"], CROPPED, strict=True):
        published = published_matrix(box, input_hw)
        expected = cv2.warpAffine(picture, published, input_hw[::-1], flags=cv2.INTER_LINEAR)
        np.testing.assert_allclose(ours[:2], published, rtol=0, atol=1e-12)
        # OpenCV rounds to 1/32 px; with an aspect of 4/3 the last bit of a matrix turns a tie.
        assert np.abs(crop.astype(int) - expected).max() <= off_by


def test_an_exact_crop_of_a_region_is_nearly_that_of_the_original():
    smooth = cv2.GaussianBlur(noise(size_hw=(90, 120)), (0, 0), 6)
    box = (40, 30, 30, 24)
    region = build_cropped_record(instance(box), png(smooth), smooth, canvas_px=416)
    exact = build_full_image_record(instance(box), png(smooth))

    found = decode_eval_batch(table(region, exact), input_hw=(32, 32), padding=1.25)

    of_region, of_original = found["crop"].astype(int)
    assert np.abs(of_region - of_original).max() <= 8  # JPEG


def test_bytes_that_rotted_give_a_black_canvas_and_hidden_keypoints_to_their_row_alone():
    picture = noise()
    sound = build_cropped_record(instance((0, 0, 40, 30)), png(picture), picture, canvas_px=48)
    rotted = sound | {"picture": sound["picture"][:200]}

    found = decode_train_batch(table(sound, rotted, sound), canvas_px=48)

    alone = decode_train_batch(table(sound), canvas_px=48)
    assert found["readable"].tolist() == [True, False, True]
    assert (found["canvas"][1] == 0).all()
    assert found["visible"].tolist() == [[True, False, True], [False] * 3, [True, False, True]]
    for at in (0, 2):
        assert (found["canvas"][at] == alone["canvas"][0]).all()


def test_bytes_that_rotted_give_a_black_crop():
    sound = build_full_image_record(instance(), png(noise()))

    found = decode_eval_batch(table(sound | {"picture": b""}, sound), input_hw=(16, 12), padding=1.25)

    assert found["readable"].tolist() == [False, True]
    assert (found["crop"][0] == 0).all()
    assert found["crop"][1].any()


def test_a_round_trip_through_parquet_changes_nothing(tmp_path: Path):
    picture = noise()
    rows = [build_cropped_record(instance((4, 3, 9, 9)), png(picture), picture, canvas_px=12)] * 2
    before = table(*rows, build_full_image_record(instance(), png(picture)))

    pq.write_table(before, tmp_path / "a.parquet", row_group_size=2)
    after = pq.read_table(tmp_path / "a.parquet")

    assert after.schema == before.schema
    assert after.column("head_size").to_pylist()[0] != after.column("head_size").to_pylist()[0]
    assert_same(decode_train_batch(after, canvas_px=16), decode_train_batch(before, canvas_px=16))
    assert_same(
        decode_eval_batch(after, input_hw=(8, 6), padding=1.25),
        decode_eval_batch(before, input_hw=(8, 6), padding=1.25),
    )


def test_parts_and_chunks_of_a_table_decode_like_the_whole():
    picture = noise()
    made = [build_full_image_record(instance(id=at, area=at + 0.5), png(picture)) for at in range(5)]
    whole = table(*made)

    chunked = pa.concat_tables([table(*made[:1]), table(*made[1:])])

    assert_same(decode_train_batch(chunked, canvas_px=24), decode_train_batch(whole, canvas_px=24))
    assert_same(
        decode_train_batch(whole.slice(2, 2), canvas_px=24),
        decode_train_batch(table(*made[2:4]), canvas_px=24),
    )


def test_no_rows_give_no_canvases_but_their_shapes():
    found = decode_train_batch(table(), canvas_px=24)
    exact = decode_eval_batch(table(), input_hw=(16, 12), padding=1.25)

    assert found["canvas"].shape == (0, 24, 24, 3)
    assert found["image_xy"].shape == (0, 3, 2)
    assert found["visible"].shape == (0, 3)
    assert exact["crop"].shape == (0, 16, 12, 3)
    assert exact["crop_from_image"].shape == (0, 3, 3)


def test_labels_can_be_read_without_the_pictures():
    made = table(build_full_image_record(instance(), b"no image at all"))

    assert list(get_label_columns(made.select(LABEL_COLUMNS))) == list(LABEL_COLUMNS)

"""Blobs are found where they were drawn, by nets of each family's layout; hostile files are told.

The nets compute: see `blob_net`. Published weights are not tested here.
"""

import math
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper, parser

from hrnet_ray.errors import DataError, UsageError
from hrnet_ray.inference.detectors.detector import ObjectDetector
from hrnet_ray.inference.detectors.letterbox import DetectorPreprocessing, letterbox_image
from hrnet_ray.inference.detectors.onnx_session import OnnxModel
from hrnet_ray.inference.detectors.output_formats import OUTPUT_FORMATS, FormatName, infer_formats
from tests.inference.detectors.blob_net import HW, blob_net, write

KINDS = get_args(FormatName)
WITH_NMS = [kind for kind in KINDS if OUTPUT_FORMATS[kind].nms_iou_threshold]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
OFF = 1.0
"""Pixels of the canvas that a side of a box may lie beside the truth: what scaling blurs."""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A file of each kind."""
    folder = tmp_path_factory.mktemp("nets")
    return {kind: blob_net(folder / f"{kind}.onnx", kind) for kind in KINDS}


@pytest.fixture
def good(nets: dict[str, Path]) -> bytes:
    return nets["yolo"].read_bytes()


def dark(height: int, width: int, *blobs: tuple[int, int, int, int, tuple[int, ...]]) -> np.ndarray:
    """An RGB image with rectangles: x, y, w, h, colour."""
    picture = np.full((height, width, 3), 20, np.uint8)
    for x, y, w, h, colour in blobs:
        picture[y : y + h, x : x + w] = colour
    return picture


SCENES = {
    "wide": ((240, 400), [(40, 60, 60, 50, RED), (250, 120, 110, 90, RED)]),
    "high": ((300, 130), [(30, 190, 60, 80, RED)]),
    "tiny": ((50, 60), [(10, 8, 12, 10, RED)]),
    "as the canvas": (HW, [(100, 7, 41, 20, RED), (20, 96, 12, 15, RED)]),
    "at the edge": ((128, 256), [(0, 0, 40, 30, RED), (226, 96, 30, 32, RED)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", SCENES)
def test_blobs_are_found_where_they_are(nets: dict[str, Path], kind: FormatName, scene: str):
    picture_hw, blobs = SCENES[scene]
    wanted = np.array([blob[:4] for blob in blobs], float)

    found = ObjectDetector.from_file(nets[kind], format_name=kind)(dark(*picture_hw, *blobs))

    assert found.shape == (len(blobs), 5)
    assert found.dtype == np.float64
    order = np.argsort(found[:, 0] * (1 if wanted[0, 0] < wanted[-1, 0] else -1))
    zoom = min(HW[0] / picture_hw[0], HW[1] / picture_hw[1])
    np.testing.assert_allclose(found[order, :4], wanted, atol=OFF / zoom)
    assert (found[:, 4] > 0.8).all()
    assert (np.diff(found[:, 4]) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_blue_blob_is_no_red_one(nets: dict[str, Path], kind: FormatName):
    detector = ObjectDetector.from_file(nets[kind], format_name=kind, min_score=0.01)

    found = detector(dark(100, 150, (40, 30, 40, 30, BLUE)))

    assert found.shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_told_apart(nets: dict[str, Path], kind: FormatName):
    picture = dark(128, 192, (20, 20, 40, 30, RED), (120, 60, 40, 50, GREEN))

    def found(*classes: int) -> list[int]:
        boxes = ObjectDetector.from_file(nets[kind], format_name=kind, class_ids=classes)(picture)
        return sorted(boxes[:, 0].round().astype(int).tolist())

    assert found() == [20, 120]
    assert found(0) == [20]
    assert found(1) == [120]
    assert found(1, 0) == [20, 120]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_below_the_score_is_left_out(nets: dict[str, Path], kind: FormatName):
    loose = dark(128, 192)
    cv2.ellipse(loose, (90, 60), (30, 20), 0, 0, 360, RED, -1)  # of its box, only three quarters

    (sure,) = ObjectDetector.from_file(nets[kind], format_name=kind)(loose)[:, 4]

    assert 0.6 < sure < 0.95
    for least, count in ((sure - 0.01, 1), (sure + 0.01, 0)):
        found = ObjectDetector.from_file(nets[kind], format_name=kind, min_score=least)(loose)
        assert len(found) == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture_hw", [(128, 192), (1, 1), (3, 900), (700, 2)])
def test_an_empty_picture_has_no_boxes(nets: dict[str, Path], kind: FormatName, picture_hw: tuple[int, int]):
    assert ObjectDetector.from_file(nets[kind], format_name=kind)(dark(*picture_hw)).shape == (0, 5)


@pytest.mark.parametrize("kind", WITH_NMS)
def test_many_answers_to_one_blob_become_one_box(nets: dict[str, Path], kind: FormatName):
    # Each centre is a corner of four cells of 16 pixels, and each cell answers.
    picture = dark(*HW, (46, 33, 36, 30, RED), (126, 33, 36, 30, RED))
    net, layout = OnnxModel(nets[kind]), OUTPUT_FORMATS[kind]

    answers = layout.decode_outputs(net(layout.preprocessing.to_input_array(picture)), HW)
    found = ObjectDetector.from_file(nets[kind], format_name=kind)(picture)

    assert (answers.scores > 0.5).sum() >= 8
    assert sorted(found[:, 0].round().tolist()) == [46, 126]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [("red",), ("red", "green")])
def test_a_file_is_told_by_its_answers(tmp_path: Path, kind: FormatName, classes: tuple[str, ...]):
    path = blob_net(tmp_path / "a.onnx", kind, classes=classes)
    two = {
        "rtmdet": "rtmdet or yolox-mmdet",
        "yolox-mmdet": "rtmdet or yolox-mmdet",
        "yolox-decoded": "yolox-decoded or yolov5",  # as YOLOv6's, which wants other colours
    }

    if kind not in two:
        assert ObjectDetector.from_file(path).format_name == kind
        return
    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path)

    assert refused.value.fix == f"give --detector-format {two[kind]}"


@pytest.mark.parametrize("kind", ["yolox", "yolo", "yolov5"])
def test_a_net_of_one_class_finds_it(tmp_path: Path, kind: FormatName):
    path = blob_net(tmp_path / "a.onnx", kind, classes=["green"])

    found = ObjectDetector.from_file(path, class_ids=(0,))(dark(*HW, (30, 40, 40, 30, GREEN), (120, 30, 40, 30, RED)))

    np.testing.assert_allclose(found, [[30, 40, 40, 30, 1]], atol=0.01)


def test_open_sides_are_640_pixels(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", hw=(640, 640), sides="any")

    detector = ObjectDetector.from_file(path)

    assert detector.onnx_model.input_hw == (640, 640)
    (found,) = detector(dark(480, 640, (200, 100, 50, 44, RED)))
    np.testing.assert_allclose(found[:4], [200, 100, 50, 44], atol=0.01)


def test_half_numbers_will_do(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", half=True)

    (found,) = ObjectDetector.from_file(path)(dark(*HW, (30, 40, 40, 30, RED)))

    np.testing.assert_allclose(found, [30, 40, 40, 30, 1], atol=0.1)


@pytest.mark.parametrize(("centred", "corner_xy"), [(True, (0, 9)), (False, (0, 0))], ids=["centred", "in the corner"])
def test_a_canvas_is_padded_with_grey(centred: bool, corner_xy: tuple[int, int]):
    picture = dark(30, 100)  # 0.48 as large, 48 x 14.4, of 32 rows

    canvas = letterbox_image(picture, (32, 48), centered=centred)

    dark_rows = np.flatnonzero((canvas.pixels == 20).all(axis=(1, 2)))
    assert dark_rows.tolist() == list(range(corner_xy[1], corner_xy[1] + 14))
    assert (np.delete(canvas.pixels, dark_rows, axis=0) == 114).all()
    assert canvas.offset_xy.tolist() == list(corner_xy)
    assert canvas.scale_xy.tolist() == [0.48, 14 / 30]
    whole = np.array([[*corner_xy, 48, corner_xy[1] + 14]])
    np.testing.assert_allclose(canvas.to_image_boxes(whole), [[0, 0, 100, 30]])


def test_colours_are_those_that_each_family_was_taught():
    canvas = np.array([[[200, 100, 50]]], np.uint8)

    def seen(look: DetectorPreprocessing) -> list[float]:
        return look.to_input_array(canvas)[:, 0, 0].round(3).tolist()

    assert seen(OUTPUT_FORMATS["yolox"].preprocessing) == [50, 100, 200]
    assert seen(OUTPUT_FORMATS["yolo"].preprocessing) == pytest.approx([200 / 255, 100 / 255, 50 / 255], abs=1e-3)
    assert seen(OUTPUT_FORMATS["rtmdet"].preprocessing) == pytest.approx(
        [(50 - 103.53) / 57.375, (100 - 116.28) / 57.12, (200 - 123.675) / 58.395], abs=1e-3
    )
    centred = [kind for kind, layout in OUTPUT_FORMATS.items() if layout.preprocessing.centered]
    assert centred == ["yolo", "yolo-end2end", "yolov5"]


def test_yolox_is_read_as_its_authors_do():
    rows = np.random.default_rng(3).normal(0, 1, (504, 7))

    read = OUTPUT_FORMATS["yolox"].decode_outputs({"output": rows[None].astype(np.float32)}, HW)

    at = 0
    for stride in (8, 16, 32):
        for row in range(HW[0] // stride):
            for column in range(HW[1] // stride):
                x, y, log_w, log_h, thing, *each = rows[at].tolist()
                left = (x + column) * stride - math.exp(log_w) * stride / 2
                bottom = (y + row) * stride + math.exp(log_h) * stride / 2
                assert read.letterbox_xyxy[at, 0] == pytest.approx(left, abs=1e-3)
                assert read.letterbox_xyxy[at, 3] == pytest.approx(bottom, abs=1e-3)
                assert read.scores[at] == pytest.approx(max(thing * c for c in each), abs=1e-5)
                at += 1
    assert at == 504


@pytest.mark.parametrize("input_hw", [HW, (416, 416), (640, 640)])
def test_raw_places_are_told_from_pixels_also_where_they_stray(input_hw: tuple[int, int]):
    """Cells without a thing answer places that nobody taught them."""
    count = sum(input_hw[0] // s * (input_hw[1] // s) for s in (8, 16, 32))
    raw = np.random.default_rng(5).normal(0.5, 2.0, (1, count, 85))
    decoded = OUTPUT_FORMATS["yolox"].decode_outputs({"output": raw}, input_hw).letterbox_xyxy
    pixels = raw.copy()
    pixels[0, :, :2] = (decoded[:, :2] + decoded[:, 2:]) / 2

    assert infer_formats({"output": raw}, input_hw) == ("yolox",)
    assert infer_formats({"output": pixels}, input_hw) == ("yolox-decoded", "yolov5")


def answering(path: Path, **outputs: np.ndarray) -> Path:
    """A net that gives the same answer to everything."""
    names = {name: f"fixed_{name}" for name in outputs}
    nodes = "\n".join(f"{name} = Identity({fixed})" for name, fixed in names.items())
    given = ", ".join(f"float {name}" for name in names)
    graph = parser.parse_graph(f"fixed (float[1, 3, 64, 96] image) => ({given}) {{ {nodes} }}")
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(outputs[name], np.float32), fixed) for name, fixed in names.items()
    )
    return write(path, graph)


END2END = [
    [10, 10, 30, 40, 0.9, 0],
    [10, 10, 30, 41, 0.8, 0],
    [-20, 50, 20, 90, 0.7, 2],  # half outside
    [40, 20, 40, 60, 0.6, 0],  # no width
    [50, 20, 45, 60, 0.6, 0],  # less than none
    [100, 10, 120, 30, 0.6, 0],  # outside
    [np.nan, 10, 30, 40, 0.6, 0],
    [-np.inf, 10, 30, 40, 0.6, 0],
    [10, 10, 30, 40, np.nan, 0],
    [50, 20, 60, 30, 0.3, 1],
    [50, 20, 60, 30, 0.29, 1],
]


def test_boxes_end_with_the_picture_and_what_is_none_is_left_out(tmp_path: Path):
    detector = ObjectDetector.from_file(answering(tmp_path / "a.onnx", output=[END2END]))

    found = detector(dark(64, 96))

    assert detector.format_name == "yolo-end2end"
    np.testing.assert_allclose(
        found,
        [[10, 10, 20, 30, 0.9], [10, 10, 20, 31, 0.8], [0, 50, 20, 14, 0.7], [50, 20, 10, 10, 0.3]],
        rtol=1e-6,
    )


def test_boxes_of_two_classes_do_not_displace_each_other(tmp_path: Path):
    rows = np.zeros((126, 6))  # 8 x 12, 4 x 6 and 2 x 3 cells
    rows[:5] = [
        [30, 20, 20, 20, 0.6, 0],
        [31, 20, 20, 20, 0.9, 0],  # nine tenths of the one above
        [30, 20, 20, 20, 0, 0.7],
        [60, 20, 20, 20, 0.5, 0],
        [67, 20, 20, 20, 0.4, 0],  # 13 of 27: 0.48 of the one above
    ]
    path = answering(tmp_path / "a.onnx", output=rows.T[None])

    found = ObjectDetector.from_file(path)(dark(64, 96))

    np.testing.assert_allclose(found[:, 4], [0.9, 0.7, 0.5, 0.4], rtol=1e-6)


@pytest.mark.parametrize("nan", [float("nan"), float("-inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_a_net_that_answers_no_numbers_finds_nothing(
    tmp_path: Path, kind: FormatName, nan: float, recwarn: pytest.WarningsRecorder
):
    shapes = {
        "yolo": {"output": (1, 6, 126)},
        "yolo-end2end": {"output": (1, 7, 6)},
        "rtmdet": {"dets": (1, 4, 5), "labels": (1, 4)},
        "yolox-mmdet": {"dets": (1, 4, 5), "labels": (1, 4)},
    }
    outputs = shapes.get(kind, {"output": (1, 126, 7)})
    path = answering(tmp_path / "a.onnx", **{n: np.full(s, nan) for n, s in outputs.items()})

    if nan < 0 and kind in ("yolox", "yolox-decoded", "yolov5"):
        with pytest.raises(DataError, match="scores above 1"):  # endless times endless
            ObjectDetector.from_file(path, format_name=kind)
    else:
        found = ObjectDetector.from_file(path, format_name=kind, min_score=0.0)(dark(64, 96))
        assert found.shape == (0, 5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ({"output": (1, 300, 84)}, "'output' [1, 300, 84]"),
        ({"output": (300, 6)}, "'output' [300, 6]"),
        ({"output": ()}, "'output' []"),
        ({"output": (2, 300, 6)}, "'output' [2, 300, 6]"),
        ({"boxes": (1, 126, 4), "scores": (1, 126, 80)}, "'scores' [1, 126, 80]"),
        ({"output": (1, 38, 126), "protos": (1, 32, 16, 24)}, "'protos' [1, 32, 16, 24]"),
        (
            {"dets": (1, 300, 4), "labels": (1, 300, 91)},
            "'dets' [1, 300, 4], 'labels' [1, 300, 91]",
        ),
        ({"dets": (1, 9, 5), "labels": (1, 8)}, "'labels' [1, 8]"),
    ],
)
@pytest.mark.parametrize("kind", ["auto", *KINDS])
def test_outputs_of_no_family_are_told(
    tmp_path: Path, kind: FormatName, outputs: dict[str, tuple[int, ...]], says: str
):
    fits = kind in ("yolox-decoded", "yolov5", "yolo") and outputs == {"output": (1, 300, 84)}
    path = answering(tmp_path / "a.onnx", **{n: np.ones(shape) for n, shape in outputs.items()})

    if fits:
        ObjectDetector.from_file(path, format_name=kind)  # who says so may try it
        return
    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path, format_name=kind)

    assert says in refused.value.where
    assert "--detector-format" in refused.value.fix


def test_whoever_answers_scores_above_1_is_of_another_family(nets: dict[str, Path]):
    with pytest.raises(DataError, match="kind yolov5: it answers scores above 1"):
        ObjectDetector.from_file(nets["yolo"], format_name="yolov5")


def test_a_net_for_keypoints_is_no_detector(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", metadata={"task": "pose"})

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path)

    assert refused.value.where == f"--detector {path}: its task is 'pose'"
    assert ObjectDetector.from_file(blob_net(path, "yolo", metadata={"task": "detect"})).format_name == "yolo"


@pytest.mark.parametrize("least_score", [-0.1, 1.1, float("nan")])
def test_a_score_that_cannot_be_is_told(nets: dict[str, Path], least_score: float):
    with pytest.raises(UsageError, match="--detector-min-score"):
        ObjectDetector.from_file(nets["yolo"], min_score=least_score)


@pytest.mark.parametrize(("classes", "wrong"), [((0, 2), 2), ((-1,), -1)])
def test_a_class_that_the_file_has_not_is_told(nets: dict[str, Path], classes: tuple[int, ...], wrong: int):
    with pytest.raises(UsageError) as refused:
        ObjectDetector.from_file(nets["yolox"], class_ids=classes)

    assert refused.value.where == f"--detector-classes {wrong}: the file has 2, from 0 to 1"


@pytest.mark.parametrize("picture", [np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)])
def test_only_pictures_are_looked_at(nets: dict[str, Path], picture: np.ndarray):
    with pytest.raises(ValueError, match="an image is RGB uint8"):
        ObjectDetector.from_file(nets["yolo"])(picture)


def test_without_onnxruntime_the_way_to_it_is_told(nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed

    with pytest.raises(UsageError) as refused:
        ObjectDetector.from_file(nets["yolo"])

    assert "onnxruntime" in refused.value.where
    assert "hrnet-ray[export]" in refused.value.fix


def test_without_cuda_in_onnxruntime_the_cpu_does_it(nets: dict[str, Path], capfd):
    detector = ObjectDetector.from_file(nets["yolo"], device="cuda")

    assert detector.onnx_model.device in ("cpu", "cuda")
    assert len(detector(dark(*HW, (30, 40, 40, 30, RED)))) == 1
    assert capfd.readouterr() == ("", "")


# ---- files that nobody should give


@pytest.mark.parametrize(
    "damaged",
    [
        lambda good: b"",
        lambda good: good[:1],
        lambda good: good[:100],
        lambda good: good[: len(good) // 2],
        lambda good: good[:-1],
        lambda good: b"hello\n" * 999,
        lambda good: b"PK\x03\x04" * 99,
        lambda good: bytes(999),
    ],
)
def test_a_damaged_file_is_told(tmp_path: Path, good: bytes, damaged: Callable[[bytes], bytes], capfd):
    path = tmp_path / "a.onnx"
    path.write_bytes(damaged(good))

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path)

    assert refused.value.what == "a detector that cannot be loaded"
    assert len(str(refused.value).splitlines()) == 3
    assert capfd.readouterr() == ("", "")  # onnxruntime has a log of its own


def test_a_file_with_wrong_bytes_works_or_is_told(tmp_path: Path, good: bytes, capfd):
    path, chance = tmp_path / "a.onnx", random.Random(4)
    told = 0
    for _ in range(60):
        wrong = bytearray(good)
        for _ in range(chance.choice([1, 3, 10])):
            wrong[chance.randrange(6000)] = chance.randrange(256)
        path.write_bytes(bytes(wrong))
        try:
            ObjectDetector.from_file(path)(dark(50, 70))
        except DataError:
            told += 1

    assert told > 10
    assert capfd.readouterr() == ("", "")


def test_a_file_that_is_not_there_is_told(tmp_path: Path):
    with pytest.raises(DataError, match="the file is not there"):
        ObjectDetector.from_file(tmp_path / "a.onnx")
    with pytest.raises(DataError, match="the file is a folder"):
        ObjectDetector.from_file(tmp_path)


def test_a_file_beyond_all_sizes_is_not_read(tmp_path: Path):
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # a hole: it takes no room

    with pytest.raises(DataError, match="larger than an ONNX file can be"):
        ObjectDetector.from_file(path)


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ("", "0 inputs, where one image is wanted"),
        ("float[1, 3, 64, 64] a, float[1, 2] b", "2 inputs, where one image is wanted"),
        ("float[1, 64, 64, 3] a", "takes [1, 64, 64, 3]"),
        ("float[4, 3, 64, 64] a", "takes [4, 3, 64, 64]"),
        ("float[1, 3, 64] a", "takes [1, 3, 64]"),
        ("float[1, 1, 64, 64] a", "takes [1, 1, 64, 64]"),
        ("float[1, 3, 64, 9000] a", "takes images of 64 x 9000"),
        ("float[1, 3, 0, 64] a", "takes images of 0 x 64"),
        ("uint8[1, 3, 64, 64] a", "takes 'tensor(uint8)'"),
    ],
)
def test_a_net_that_takes_no_picture_is_told(tmp_path: Path, inputs: str, says: str):
    graph = parser.parse_graph(f"odd ({inputs}) => (float o) {{ o = Constant<value_float=1.0>() }}")

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(write(tmp_path / "a.onnx", graph))

    assert says in refused.value.where


@pytest.mark.parametrize(
    ("output", "node", "says"),
    [
        ("float o", "Expand(a, huge)", "allocate"),
        ("float o", "ConstantOfShape(huge)", "allocate"),
        ("float o", "NoSuchThing(a)", "NoSuchThing"),
        ("string o", "Cast <to = 8> (a)", "'o' is no array of numbers"),
        ("seq(float) o", "SequenceConstruct(a)", "'o' is no array of numbers"),
        ("float o", "Gather(a, huge)", "indices element out of data bounds"),
    ],
)
def test_a_net_that_cannot_be_run_is_told(tmp_path: Path, output: str, node: str, says: str, capfd):
    graph = parser.parse_graph(f"odd (float[1, 3, 64, 64] a) => ({output}) {{ o = {node} }}")
    graph.initializer.append(numpy_helper.from_array(np.array([10**9, 3, 64, 64]), "huge"))

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(write(tmp_path / "a.onnx", graph))

    assert says in refused.value.where
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "{root}/weights.bin", "link"])
def test_weights_are_read_from_the_folder_of_the_file_only(tmp_path: Path, good: bytes, place: str):
    model = onnx.load_from_string(good)
    (tensor,) = (one for one in model.graph.initializer if one.name == "middle_x")
    content = numpy_helper.to_array(tensor).tobytes()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": place.format(root=tmp_path), "length": len(content)}.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.onnx").write_bytes(model.SerializeToString())
    for beside in (tmp_path, folder):
        (beside / "weights.bin").write_bytes(content)
    (folder / "link").symlink_to(tmp_path / "weights.bin")

    if place == "weights.bin":
        assert ObjectDetector.from_file(folder / "a.onnx").format_name == "yolo"
        return
    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(folder / "a.onnx")

    assert "External data path validation failed" in refused.value.where

"""Object detectors of each output format, and refused files.

The detectors are those of `blob_net`. Published weights are not tested here.
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
from hrnet_ray.inference.detectors.output_formats import OUTPUT_FORMATS, STRIDE_SETS, FormatName, infer_formats
from tests.inference.detectors.blob_net import HW, blob_net, write

KINDS = get_args(FormatName)
WITH_NMS = [kind for kind in KINDS if OUTPUT_FORMATS[kind].nms_iou_threshold]
RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
TOLERANCE_PX = 1.0
"""Tolerance of a box side in pixels of the letterbox, because scaling blurs edges."""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One ONNX file per output format."""
    folder = tmp_path_factory.mktemp("nets")
    return {kind: blob_net(folder / f"{kind}.onnx", kind) for kind in KINDS}


@pytest.fixture
def good(nets: dict[str, Path]) -> bytes:
    return nets["yolo"].read_bytes()


def make_scene(height: int, width: int, *blobs: tuple[int, int, int, int, tuple[int, ...]]) -> np.ndarray:
    """Make a dark RGB image with rectangles (x, y, w, h, color)."""
    image = np.full((height, width, 3), 20, np.uint8)
    for x, y, w, h, colour in blobs:
        image[y : y + h, x : x + w] = colour
    return image


SCENES = {
    "wide": ((240, 400), [(40, 60, 60, 50, RED), (250, 120, 110, 90, RED)]),
    "high": ((300, 130), [(30, 190, 60, 80, RED)]),
    "tiny": ((50, 60), [(10, 8, 12, 10, RED)]),
    "as the canvas": (HW, [(100, 7, 41, 20, RED), (20, 96, 12, 15, RED)]),
    "at the edge": ((128, 256), [(0, 0, 40, 30, RED), (226, 96, 30, 32, RED)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scene", SCENES)
def test_detected_boxes_equal_the_rectangles(nets: dict[str, Path], kind: FormatName, scene: str):
    image_hw, blobs = SCENES[scene]
    expected = np.array([blob[:4] for blob in blobs], float)

    detected = ObjectDetector.from_file(nets[kind], format_name=kind)(make_scene(*image_hw, *blobs))

    assert detected.shape == (len(blobs), 5)
    assert detected.dtype == np.float64
    order = np.argsort(detected[:, 0] * (1 if expected[0, 0] < expected[-1, 0] else -1))
    zoom = min(HW[0] / image_hw[0], HW[1] / image_hw[1])
    np.testing.assert_allclose(detected[order, :4], expected, atol=TOLERANCE_PX / zoom)
    assert (detected[:, 4] > 0.8).all()
    assert (np.diff(detected[:, 4]) <= 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_other_colors_are_not_detected(nets: dict[str, Path], kind: FormatName):
    detector = ObjectDetector.from_file(nets[kind], format_name=kind, min_score=0.01)

    detected = detector(make_scene(100, 150, (40, 30, 40, 30, BLUE)))

    assert detected.shape == (0, 5)


@pytest.mark.parametrize("kind", KINDS)
def test_class_ids_select_detections(nets: dict[str, Path], kind: FormatName):
    image = make_scene(128, 192, (20, 20, 40, 30, RED), (120, 60, 40, 50, GREEN))

    def detect_left_edges(*classes: int) -> list[int]:
        boxes = ObjectDetector.from_file(nets[kind], format_name=kind, class_ids=classes)(image)
        return sorted(boxes[:, 0].round().astype(int).tolist())

    assert detect_left_edges() == [20, 120]
    assert detect_left_edges(0) == [20]
    assert detect_left_edges(1) == [120]
    assert detect_left_edges(1, 0) == [20, 120]


@pytest.mark.parametrize("kind", KINDS)
def test_detections_below_min_score_are_left_out(nets: dict[str, Path], kind: FormatName):
    scene = make_scene(128, 192)
    cv2.ellipse(scene, (90, 60), (30, 20), 0, 0, 360, RED, -1)  # an ellipse covers three quarters of its box

    (score,) = ObjectDetector.from_file(nets[kind], format_name=kind)(scene)[:, 4]

    assert 0.6 < score < 0.95
    for min_score, count in ((score - 0.01, 1), (score + 0.01, 0)):
        detected = ObjectDetector.from_file(nets[kind], format_name=kind, min_score=min_score)(scene)
        assert len(detected) == count


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("image_hw", [(128, 192), (1, 1), (3, 900), (700, 2)])
def test_an_empty_image_has_no_boxes(nets: dict[str, Path], kind: FormatName, image_hw: tuple[int, int]):
    assert ObjectDetector.from_file(nets[kind], format_name=kind)(make_scene(*image_hw)).shape == (0, 5)


@pytest.mark.parametrize("kind", WITH_NMS)
def test_nms_merges_detections_of_one_rectangle(nets: dict[str, Path], kind: FormatName):
    # Each center is the corner of four cells of 16 px, and each cell detects the rectangle.
    image = make_scene(*HW, (46, 33, 36, 30, RED), (126, 33, 36, 30, RED))
    net, layout = OnnxModel(nets[kind]), OUTPUT_FORMATS[kind]

    raw = layout.decode_outputs(net(layout.preprocessing.to_input_array(image)), HW)
    detected = ObjectDetector.from_file(nets[kind], format_name=kind)(image)

    assert (raw.scores > 0.5).sum() >= 8
    assert sorted(detected[:, 0].round().tolist()) == [46, 126]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("classes", [("red",), ("red", "green")])
def test_the_output_format_is_inferred_from_the_outputs(tmp_path: Path, kind: FormatName, classes: tuple[str, ...]):
    path = blob_net(tmp_path / "a.onnx", kind, classes=classes)
    two = {
        "rtmdet": "rtmdet or yolox-mmdet",
        "yolox-mmdet": "rtmdet or yolox-mmdet",
        "yolox-decoded": "yolox-decoded or yolov5",  # like YOLOv6, which needs other colors
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

    found = ObjectDetector.from_file(path, class_ids=(0,))(
        make_scene(*HW, (30, 40, 40, 30, GREEN), (120, 30, 40, 30, RED))
    )

    np.testing.assert_allclose(found, [[30, 40, 40, 30, 1]], atol=0.01)


@pytest.mark.parametrize("kind", ["yolox", "yolox-decoded", "yolo", "yolov5"])
@pytest.mark.parametrize(
    ("strides", "wh"),
    list(zip(STRIDE_SETS, [(40, 30), (120, 110), (3, 2)], strict=True)),  # found by one level alone: any, 64, 4
    ids=["usual", "P6", "P2"],
)
def test_nets_of_more_levels_are_read(tmp_path: Path, kind: FormatName, strides: tuple[int, ...], wh: tuple[int, int]):
    path = blob_net(tmp_path / "a.onnx", kind, strides=strides)

    detector = ObjectDetector.from_file(path, format_name="auto" if kind != "yolox-decoded" else kind)

    assert detector.format_name == kind
    found = detector(make_scene(*HW, (20, 3, *wh, RED)))
    np.testing.assert_allclose(found, [[20, 3, *wh, 1]], atol=0.02)


def test_raw_maps_beside_the_boxes_of_yolov5_are_ignored(tmp_path: Path):
    model = onnx.load(blob_net(tmp_path / "a.onnx", "yolov5"))
    raw = numpy_helper.from_array(np.ones((1, 3, 16, 24, 7), np.float32), "raw")
    model.graph.node.append(onnx.helper.make_node("Constant", [], ["maps_8"], value=raw))
    model.graph.output.append(onnx.helper.make_tensor_value_info("maps_8", TensorProto.FLOAT, None))
    onnx.save(model, tmp_path / "a.onnx")

    (found,) = ObjectDetector.from_file(tmp_path / "a.onnx")(make_scene(*HW, (30, 40, 40, 30, RED)))

    np.testing.assert_allclose(found, [30, 40, 40, 30, 1], atol=0.02)


def test_open_sides_are_640_pixels(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", hw=(640, 640), sides="any")

    detector = ObjectDetector.from_file(path)

    assert detector.onnx_model.input_hw == (640, 640)
    (found,) = detector(make_scene(480, 640, (200, 100, 50, 44, RED)))
    np.testing.assert_allclose(found[:4], [200, 100, 50, 44], atol=0.01)


def test_half_numbers_will_do(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", half=True)

    (found,) = ObjectDetector.from_file(path)(make_scene(*HW, (30, 40, 40, 30, RED)))

    np.testing.assert_allclose(found, [30, 40, 40, 30, 1], atol=0.1)


@pytest.mark.parametrize(("centred", "corner_xy"), [(True, (0, 9)), (False, (0, 0))], ids=["centred", "in the corner"])
def test_a_letterbox_is_padded_with_gray(centred: bool, corner_xy: tuple[int, int]):
    image = make_scene(30, 100)  # 0.48 as large, 48 x 14.4, of 32 rows

    canvas = letterbox_image(image, (32, 48), centered=centred)

    dark_rows = np.flatnonzero((canvas.pixels == 20).all(axis=(1, 2)))
    assert dark_rows.tolist() == list(range(corner_xy[1], corner_xy[1] + 14))
    assert (np.delete(canvas.pixels, dark_rows, axis=0) == 114).all()
    assert canvas.offset_xy.tolist() == list(corner_xy)
    assert canvas.scale_xy.tolist() == [0.48, 14 / 30]
    whole = np.array([[*corner_xy, 48, corner_xy[1] + 14]])
    np.testing.assert_allclose(canvas.to_image_boxes(whole), [[0, 0, 100, 30]])


def test_input_colors_follow_each_family():
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


def test_yolox_decoding_equals_the_published_formulas():
    rows = np.random.default_rng(3).normal(0, 1, (504, 7))

    decoded = OUTPUT_FORMATS["yolox"].decode_outputs({"output": rows[None].astype(np.float32)}, HW)

    index = 0
    for stride in (8, 16, 32):
        for row in range(HW[0] // stride):
            for column in range(HW[1] // stride):
                x, y, log_w, log_h, objectness, *class_scores = rows[index].tolist()
                left = (x + column) * stride - math.exp(log_w) * stride / 2
                bottom = (y + row) * stride + math.exp(log_h) * stride / 2
                assert decoded.letterbox_xyxy[index, 0] == pytest.approx(left, abs=1e-3)
                assert decoded.letterbox_xyxy[index, 3] == pytest.approx(bottom, abs=1e-3)
                assert decoded.scores[index] == pytest.approx(max(objectness * c for c in class_scores), abs=1e-5)
                index += 1
    assert index == 504


@pytest.mark.parametrize("input_hw", [HW, (416, 416), (640, 640)])
def test_raw_and_decoded_yolox_outputs_are_distinguished(input_hw: tuple[int, int]):
    """Cells without an object have arbitrary positions."""
    count = sum(input_hw[0] // s * (input_hw[1] // s) for s in (8, 16, 32))
    raw = np.random.default_rng(5).normal(0.5, 2.0, (1, count, 85))
    decoded = OUTPUT_FORMATS["yolox"].decode_outputs({"output": raw}, input_hw).letterbox_xyxy
    pixels = raw.copy()
    pixels[0, :, :2] = (decoded[:, :2] + decoded[:, 2:]) / 2

    assert infer_formats({"output": raw}, input_hw) == ("yolox",)
    assert infer_formats({"output": pixels}, input_hw) == ("yolox-decoded", "yolov5")


def write_constant_model(path: Path, **outputs: np.ndarray) -> Path:
    """Write a model with constant outputs."""
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
    [50, 20, 45, 60, 0.6, 0],  # negative width
    [100, 10, 120, 30, 0.6, 0],  # outside
    [np.nan, 10, 30, 40, 0.6, 0],
    [-np.inf, 10, 30, 40, 0.6, 0],
    [10, 10, 30, 40, np.nan, 0],
    [50, 20, 60, 30, 0.3, 1],
    [50, 20, 60, 30, 0.29, 1],
]


def test_boxes_are_clipped_to_the_image_and_invalid_ones_left_out(tmp_path: Path):
    detector = ObjectDetector.from_file(write_constant_model(tmp_path / "a.onnx", output=np.array([END2END])))

    detected = detector(make_scene(64, 96))

    assert detector.format_name == "yolo-end2end"
    np.testing.assert_allclose(
        detected,
        [[10, 10, 20, 30, 0.9], [10, 10, 20, 31, 0.8], [0, 50, 20, 14, 0.7], [50, 20, 10, 10, 0.3]],
        rtol=1e-6,
    )


def test_nms_does_not_compare_classes(tmp_path: Path):
    rows = np.zeros((126, 6))  # 8 x 12, 4 x 6 and 2 x 3 cells
    rows[:5] = [
        [30, 20, 20, 20, 0.6, 0],
        [31, 20, 20, 20, 0.9, 0],  # IoU 0.9 with the row above
        [30, 20, 20, 20, 0, 0.7],
        [60, 20, 20, 20, 0.5, 0],
        [67, 20, 20, 20, 0.4, 0],  # IoU 13 / 27 = 0.48 with the row above
    ]
    path = write_constant_model(tmp_path / "a.onnx", output=rows.T[None])

    detected = ObjectDetector.from_file(path)(make_scene(64, 96))

    np.testing.assert_allclose(detected[:, 4], [0.9, 0.7, 0.5, 0.4], rtol=1e-6)


@pytest.mark.parametrize("nan", [float("nan"), float("-inf")])
@pytest.mark.parametrize("kind", KINDS)
def test_nan_outputs_give_no_boxes(tmp_path: Path, kind: FormatName, nan: float, recwarn: pytest.WarningsRecorder):
    shapes = {
        "yolo": {"output": (1, 6, 126)},
        "yolo-end2end": {"output": (1, 7, 6)},
        "rtmdet": {"dets": (1, 4, 5), "labels": (1, 4)},
        "yolox-mmdet": {"dets": (1, 4, 5), "labels": (1, 4)},
    }
    outputs = shapes.get(kind, {"output": (1, 126, 7)})
    path = write_constant_model(tmp_path / "a.onnx", **{n: np.full(s, nan) for n, s in outputs.items()})

    if nan < 0 and kind in ("yolox", "yolox-decoded", "yolov5"):
        with pytest.raises(DataError, match="scores above 1"):  # -inf * -inf = inf
            ObjectDetector.from_file(path, format_name=kind)
    else:
        detected = ObjectDetector.from_file(path, format_name=kind, min_score=0.0)(make_scene(64, 96))
        assert detected.shape == (0, 5)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("outputs", "message"),
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
def test_outputs_of_an_unknown_format_are_refused(
    tmp_path: Path, kind: FormatName, outputs: dict[str, tuple[int, ...]], message: str
):
    fits = kind in ("yolox-decoded", "yolov5", "yolo") and outputs == {"output": (1, 300, 84)}
    path = write_constant_model(tmp_path / "a.onnx", **{n: np.ones(shape) for n, shape in outputs.items()})

    if fits:
        ObjectDetector.from_file(path, format_name=kind)  # accepted if the format is given
        return
    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path, format_name=kind)

    assert message in refused.value.where
    assert "--detector-format" in refused.value.fix


def test_scores_above_1_are_refused(nets: dict[str, Path]):
    with pytest.raises(DataError, match="kind yolov5: it answers scores above 1"):
        ObjectDetector.from_file(nets["yolo"], format_name="yolov5")


def test_a_keypoint_model_is_refused(tmp_path: Path):
    path = blob_net(tmp_path / "a.onnx", "yolo", metadata={"task": "pose"})

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path)

    assert refused.value.where == f"--detector {path}: its task is 'pose'"
    assert ObjectDetector.from_file(blob_net(path, "yolo", metadata={"task": "detect"})).format_name == "yolo"


@pytest.mark.parametrize("least_score", [-0.1, 1.1, float("nan")])
def test_an_invalid_min_score_is_refused(nets: dict[str, Path], least_score: float):
    with pytest.raises(UsageError, match="--detector-min-score"):
        ObjectDetector.from_file(nets["yolo"], min_score=least_score)


@pytest.mark.parametrize(("classes", "unknown"), [((0, 2), 2), ((-1,), -1)])
def test_an_unknown_class_id_is_refused(nets: dict[str, Path], classes: tuple[int, ...], unknown: int):
    with pytest.raises(UsageError) as refused:
        ObjectDetector.from_file(nets["yolox"], class_ids=classes)

    assert refused.value.where == f"--detector-classes {unknown}: the file has 2, from 0 to 1"


@pytest.mark.parametrize("image", [np.zeros((9, 9, 3)), np.zeros((9, 9), np.uint8), np.zeros((9, 9, 4), np.uint8)])
def test_invalid_images_are_refused(nets: dict[str, Path], image: np.ndarray):
    with pytest.raises(ValueError, match="an image is RGB uint8"):
        ObjectDetector.from_file(nets["yolo"])(image)


def test_a_missing_onnxruntime_is_named_with_its_extra(nets: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # as if it were not installed

    with pytest.raises(UsageError) as refused:
        ObjectDetector.from_file(nets["yolo"])

    assert "onnxruntime" in refused.value.where
    assert "hrnet-ray[export]" in refused.value.fix


def test_onnxruntime_without_cuda_uses_the_cpu(nets: dict[str, Path], capfd):
    detector = ObjectDetector.from_file(nets["yolo"], device="cuda")

    assert detector.onnx_model.device in ("cpu", "cuda")
    assert len(detector(make_scene(*HW, (30, 40, 40, 30, RED)))) == 1
    assert capfd.readouterr() == ("", "")


# ---- damaged and hostile files


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
def test_a_damaged_file_is_refused(tmp_path: Path, good: bytes, damaged: Callable[[bytes], bytes], capfd):
    path = tmp_path / "a.onnx"
    path.write_bytes(damaged(good))

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(path)

    assert refused.value.what == "a detector that cannot be loaded"
    assert len(str(refused.value).splitlines()) == 3
    assert capfd.readouterr() == ("", "")  # onnxruntime would log to stderr


def test_a_file_with_random_byte_errors_works_or_is_refused(tmp_path: Path, good: bytes, capfd):
    path, rng = tmp_path / "a.onnx", random.Random(4)
    num_refused = 0
    for _ in range(60):
        content = bytearray(good)
        for _ in range(rng.choice([1, 3, 10])):
            content[rng.randrange(6000)] = rng.randrange(256)
        path.write_bytes(bytes(content))
        try:
            ObjectDetector.from_file(path)(make_scene(50, 70))
        except DataError:
            num_refused += 1

    assert num_refused > 10
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_refused(tmp_path: Path):
    with pytest.raises(DataError, match="the file is not there"):
        ObjectDetector.from_file(tmp_path / "a.onnx")
    with pytest.raises(DataError, match="the file is a folder"):
        ObjectDetector.from_file(tmp_path)


def test_a_file_above_2_gib_is_refused(tmp_path: Path):
    path = tmp_path / "a.onnx"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # a sparse file

    with pytest.raises(DataError, match="larger than an ONNX file can be"):
        ObjectDetector.from_file(path)


@pytest.mark.parametrize(
    ("inputs", "message"),
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
def test_a_model_with_an_unsupported_input_is_refused(tmp_path: Path, inputs: str, message: str):
    graph = parser.parse_graph(f"odd ({inputs}) => (float o) {{ o = Constant<value_float=1.0>() }}")

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(write(tmp_path / "a.onnx", graph))

    assert message in refused.value.where


@pytest.mark.parametrize(
    ("output", "node", "message"),
    [
        ("float o", "Expand(a, huge)", "allocate"),
        ("float o", "ConstantOfShape(huge)", "allocate"),
        ("float o", "NoSuchThing(a)", "NoSuchThing"),
        ("string o", "Cast <to = 8> (a)", "'o' is no array of numbers"),
        ("seq(float) o", "SequenceConstruct(a)", "'o' is no array of numbers"),
        ("float o", "Gather(a, huge)", "indices element out of data bounds"),
    ],
)
def test_a_model_that_fails_to_run_is_refused(tmp_path: Path, output: str, node: str, message: str, capfd):
    graph = parser.parse_graph(f"odd (float[1, 3, 64, 64] a) => ({output}) {{ o = {node} }}")
    graph.initializer.append(numpy_helper.from_array(np.array([10**9, 3, 64, 64]), "huge"))

    with pytest.raises(DataError) as refused:
        ObjectDetector.from_file(write(tmp_path / "a.onnx", graph))

    assert message in refused.value.where
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["weights.bin", "../weights.bin", "{root}/weights.bin", "link"])
def test_external_weights_are_read_from_the_folder_of_the_file_only(tmp_path: Path, good: bytes, place: str):
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

"""ONNX detectors of red and green rectangles, in the output format of each detector family.

The weights are set by hand. A convolution of four cells sums red and green with their first and
second moments, which give center and sides of a rectangle. As in trained detectors, several cells
and levels detect the same rectangle.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser

HW = (128, 192)
STRIDES = (8, 16, 32)
TOP = 20
"""Number of boxes of an end-to-end detector (one that needs no NMS)."""

# Input colors of each family, as (order, factors, shifts) to RGB from 0 to 1.
RGB_1 = ("rgb", (1.0,) * 3, (0.0,) * 3)
BGR_255 = ("bgr", (1 / 255,) * 3, (0.0,) * 3)
BGR_IMAGENET = (
    "bgr",
    (57.375 / 255, 57.12 / 255, 58.395 / 255),
    (103.53 / 255, 116.28 / 255, 123.675 / 255),
)
LOOKS = {
    "yolox": BGR_255,
    "yolox-decoded": BGR_255,
    "yolox-mmdet": BGR_255,
    "rtmdet": BGR_IMAGENET,
    "yolo": RGB_1,
    "yolo-end2end": RGB_1,
    "yolov5": RGB_1,
}

BODY = """
    colours = Conv(image, from_colours, from_shifts)
    r, g, b = Split <axis = 1> (colours)
    lighter = Max(r, g)
    coloured = Sub(lighter, b)
    matter = Relu(coloured)
    r_g = Sub(r, g)
    r_g_b = Sub(r_g, b)
    red = Relu(r_g_b)
    g_r = Sub(g, r)
    g_r_b = Sub(g_r, b)
    green = Relu(g_r_b)
    maps = Concat <axis = 1> (matter, red, green)
    {levels}
    sums = Concat <axis = 2> ({flat})
    mass, mx, my, mxx, myy, rim, reds, greens = Split <axis = 1> (sums)
    some = Max(mass, tiny)
    dx = Div(mx, some)
    dy = Div(my, some)
    cx = Add(dx, middle_x)
    cy = Add(dy, middle_y)
    {sides}
    area = Mul(w, h)
    full = Div(mass, area)
    off = Sub(full, one)
    amiss = Abs(off)
    twice = Add(amiss, amiss)
    rest = Sub(one, twice)
    solid = Relu(rest)
    red_share = Div(reds, some)
    green_share = Div(greens, some)
    p_red = Mul(solid, red_share)
    p_green = Mul(solid, green_share)
    longest = Max(w, h)
    long = GreaterOrEqual(longest, shortest_side)
    short = Less(longest, longest_side)
    right = GreaterOrEqual(dx, minus_reach)
    left = Less(dx, reach)
    below = GreaterOrEqual(dy, minus_reach)
    above = Less(dy, reach)
    whole = Less(rim, tiny)
    all_1 = And(long, short)
    all_2 = And(all_1, right)
    all_3 = And(all_2, left)
    all_4 = And(all_3, below)
    all_5 = And(all_4, above)
    all_6 = And(all_5, whole)
    seen = Cast <to = 1> (all_6)
"""
# The variance of a row of n points is (n * n - 1) / 12.
SIDE = """
    q{a} = Div(m{a}{a}, some)
    s{a} = Mul(d{a}, d{a})
    v{a} = Sub(q{a}, s{a})
    t{a} = Mul(v{a}, twelve)
    p{a} = Relu(t{a})
    n{a} = Add(p{a}, one)
    {side} = Sqrt(n{a})
"""
LEVEL = """
    sums_{s} = Conv <strides = [{s}, {s}], pads = [{p}, {p}, {p}, {p}]> (maps, moments_{s})
    flat_{s} = Reshape(sums_{s}, flat)
"""
RAW = """
    column = Div(cx, stride)
    row = Div(cy, stride)
    x_in = Sub(column, cell_x)
    y_in = Sub(row, cell_y)
    wide = Div(w, stride)
    high = Div(h, stride)
    log_w = Log(wide)
    log_h = Log(high)
    rows = Concat <axis = 1> (x_in, y_in, log_w, log_h, seen, {classes})
    output = Transpose <perm = [0, 2, 1]> (rows)
"""
PIXELS = """
    rows = Concat <axis = 1> (cx, cy, w, h, seen, {classes})
    output = Transpose <perm = [0, 2, 1]> (rows)
"""
ANCHORS = """
    nothing = Sub(seen, seen)
    rows = Concat <axis = 1> (cx, cy, w, h, seen, {classes})
    others = Concat <axis = 1> (cx, cy, w, h, nothing, {classes})
    three = Concat <axis = 2> (rows, others, others)
    output = Transpose <perm = [0, 2, 1]> (three)
"""
CLASSES = """
    red_seen = Mul(p_red, seen)
    green_seen = Mul(p_green, seen)
"""
UPRIGHT = (
    CLASSES
    + """
    output = Concat <axis = 1> (cx, cy, w, h, {seen})
"""
)
BEST = (
    CLASSES
    + """
    half_w = Mul(w, half)
    half_h = Mul(h, half)
    x1 = Sub(cx, half_w)
    y1 = Sub(cy, half_h)
    x2 = Add(cx, half_w)
    y2 = Add(cy, half_h)
    best = Max(red_seen, green_seen)
    is_green = Greater(green_seen, red_seen)
    kind = Cast <to = 1> (is_green)
    rows = Concat <axis = 1> (x1, y1, x2, y2, best, kind)
    flat_best = Reshape(best, line)
    tops, places = TopK(flat_best, top)
    chosen = Gather <axis = 2> (rows, places)
    boxes = Transpose <perm = [0, 2, 1]> (chosen)
"""
)
END2END = BEST + "    output = Identity(boxes)\n"
MMDET = (
    BEST
    + """
    dets, label = Split <axis = 2> (boxes, five_one)
    squeezed = Squeeze(label, last)
    labels = Cast <to = 7> (squeezed)
"""
)
HEADS = {
    "yolox": RAW,
    "yolox-decoded": PIXELS,
    "yolox-mmdet": MMDET,
    "rtmdet": MMDET,
    "yolo": UPRIGHT,
    "yolo-end2end": END2END,
    "yolov5": ANCHORS,
}


def blob_net(
    path: Path,
    kind: str,
    *,
    hw: tuple[int, int] = HW,
    sides: str | None = None,
    classes: Sequence[str] = ("red", "green"),
    half: bool = False,
    strides: tuple[int, ...] = STRIDES,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a detector of this format for images of `hw`; `sides` names dynamic dimensions."""
    once = kind in ("yolox-mmdet", "rtmdet", "yolo-end2end")
    height, width = (f"H{sides}", f"W{sides}") if sides else hw
    number = "float16" if half else "float"
    inputs = f"{number}[1, 3, {height}, {width}] {'half_image' if half else 'image'}"
    outputs = ["dets", "labels"] if HEADS[kind] is MMDET else ["output"]
    dtypes = {"labels": "int64"}
    output_names = ", ".join(f"{dtypes.get(name, 'float')}[...] {name}" for name in outputs)
    body = BODY.format(
        levels="".join(LEVEL.format(s=s, p=s + s // 2) for s in strides),
        flat=", ".join(f"flat_{s}" for s in strides),
        sides=SIDE.format(a="x", side="w") + SIDE.format(a="y", side="h"),
    )
    head = HEADS[kind].format(
        classes=", ".join(f"p_{name}" for name in classes),
        seen=", ".join(f"{name}_seen" for name in classes),
    )
    cast = "    image = Cast <to = 1> (half_image)\n" if half else ""
    graph = parser.parse_graph(f"blobs ({inputs}) => ({output_names}) {{\n{cast}{body}{head}}}".replace("[...]", ""))
    graph.initializer.extend(
        numpy_helper.from_array(array, name)
        for name, array in {**colours_of(kind), **numbers(), **geometry(hw, strides, once=once)}.items()
    )
    return write(path, graph, metadata)


def write(path: Path, graph: onnx.GraphProto, metadata: dict[str, str] | None = None) -> Path:
    """Write a graph as an ONNX file."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    helper.set_model_props(model, metadata or {})
    path.write_bytes(model.SerializeToString())
    return path


def colours_of(kind: str) -> dict[str, np.ndarray]:
    """Build the convolution that inverts the color preprocessing of the family."""
    order, factors, shifts = LOOKS[kind]
    places = ["rgb".index(colour) for colour in order]
    matrix, shift = np.zeros((3, 3, 1, 1), np.float32), np.zeros(3, np.float32)
    for at, place in enumerate(places):
        matrix[place, at] = factors[at]
        shift[place] = shifts[at]
    return {"from_colours": matrix, "from_shifts": shift}


def numbers() -> dict[str, np.ndarray]:
    floats = {"tiny": 1e-3, "one": 1.0, "half": 0.5, "twelve": 12.0}
    whole = {"flat": [1, 8, -1], "line": [-1], "top": [TOP], "five_one": [5, 1], "last": [2]}
    return {name: np.array(value, np.float32) for name, value in floats.items()} | {
        name: np.array(value, np.int64) for name, value in whole.items()
    }


def geometry(hw: tuple[int, int], strides: tuple[int, ...], *, once: bool) -> dict[str, np.ndarray]:
    """Build cell positions, detection ranges and weights of moments.

    With `once`, each rectangle is detected by one cell of one level only.
    """
    cells = np.array(
        [
            (column, row, stride)
            for stride in strides
            for row in range(hw[0] // stride)
            for column in range(hw[1] // stride)
        ],
        np.float32,
    ).T[:, None, None]
    column, row, stride = cells
    reach = stride * (0.5 if once else 0.75)
    arrays = {
        "cell_x": column,
        "cell_y": row,
        "stride": stride,
        "middle_x": (column + 0.5) * stride,
        "middle_y": (row + 0.5) * stride,
        "reach": reach,
        "minus_reach": -reach,
        "shortest_side": stride * (1.0 if once else 0.5),
        "longest_side": stride * (2.0 if once else 2.5),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    return arrays | {f"moments_{stride}": moments(stride) for stride in strides}


def moments(stride: int) -> np.ndarray:
    """Build the convolution of eight sums over three maps: float32 [8, 3, 4 strides, 4 strides]."""
    side = 4 * stride
    y, x = np.mgrid[:side, :side] + 0.5 - side / 2
    rim = np.ones((side, side))
    rim[1:-1, 1:-1] = 0
    weights = np.zeros((8, 3, side, side), np.float32)
    weights[:6, 0] = [np.ones_like(x), x, y, x * x, y * y, rim]
    weights[6, 1] = weights[7, 2] = 1
    return weights

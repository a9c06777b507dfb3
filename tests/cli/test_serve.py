"""`hrnet-ray serve`, as a browser and as programs find it."""

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import Request, urlopen

import cv2
import numpy as np
import pytest

from hrnet_ray.cli import INTERRUPTED
from hrnet_ray.cli.serve import Args, run
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.model_folder import save_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.inference.web.app import LARGEST_BYTES
from tests.browser import browsing
from tests.inference.paws import BOXES, SPEC, blotched_picture, lively_model


@dataclass(frozen=True)
class Served:
    """A server with a small model, and the picture to send."""

    process: subprocess.Popen[str]
    url: str
    picture: Path

    def post(self, data: bytes, *, boxes: object = None, host: str = "") -> dict:
        query = "" if boxes is None else f"?boxes={quote(json.dumps(boxes))}"
        request = Request(f"{self.url}/predict{query}", data=data, method="POST")
        if host:
            request.add_header("Host", host)
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)


def start(folder: Path) -> Served:
    save_model(folder / "model", lively_model(), SPEC)
    picture = folder / "paws.png"
    cv2.imwrite(str(picture), blotched_picture()[..., ::-1])
    command = [sys.executable, "-m", "hrnet_ray.cli", "serve"]
    process = subprocess.Popen(
        [*command, "--model", str(folder / "model"), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if found := re.match(r"http://127\.0\.0\.1:\d+", line):
            return Served(process, found[0], picture)
    raise AssertionError(f"ended with {process.wait()}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = start(tmp_path_factory.mktemp("served"))
    yield served
    served.process.kill()
    served.process.wait()


def refusal(served: Served, data: bytes, **more) -> tuple[int, str]:
    with pytest.raises(HTTPError) as refused:
        served.post(data, **more)
    return refused.value.code, refused.value.read().decode()


def test_a_program_is_told_what_the_predictor_finds(served: Served):
    found = served.post(served.picture.read_bytes(), boxes=BOXES.tolist())

    ours = Predictor(lively_model(), SPEC)(blotched_picture(), BOXES)
    assert (found["width"], found["height"]) == (150, 120)
    assert found["keypoints"] == ["left_paw", "right_paw", "nose"]
    assert [pose["box"] for pose in found["poses"]] == BOXES.tolist()
    points = np.array([pose["points"] for pose in found["poses"]])
    np.testing.assert_allclose(points[..., :2], ours.image_xy.numpy(), atol=0.01)
    np.testing.assert_allclose(points[..., 2], ours.scores.numpy(), rtol=1e-3, atol=0.001)


def test_without_boxes_the_whole_picture_is_one(served: Served):
    (pose,) = served.post(served.picture.read_bytes())["poses"]

    assert pose["box"] == [0, 0, 149, 119]
    assert served.post(served.picture.read_bytes(), boxes=[])["poses"] == []


@pytest.mark.parametrize(
    ("data", "boxes", "what"),
    [
        (b"", None, "a picture that cannot be read"),
        (b"hello", None, "a picture that cannot be read"),
        (b"\0" * (LARGEST_BYTES + 1), None, "a picture that is too large"),
        (None, [[1, 2, 3]], "boxes that are none"),
        (None, [[1, 2, 3, 0]], "boxes that are none"),
        (None, [[1, 2, 3, "x"]], "boxes that are none"),
        (None, {"a": 1}, "boxes that are none"),
        (None, [[0, 0, 9, 9]] * 1001, "boxes that are none"),
    ],
)
def test_what_is_wrong_is_said_in_three_parts(served: Served, data, boxes, what: str):
    data = served.picture.read_bytes() if data is None else data

    status, answer = refusal(served, data, boxes=boxes)

    said = json.loads(answer)
    assert status == 400
    assert said.keys() == {"error", "where", "fix"}
    assert said["error"].startswith(what)


def test_a_page_of_elsewhere_cannot_pass_for_this_one(served: Served):
    """The name of another site may be led to 127.0.0.1, but the browser says whose name it was."""
    assert refusal(served, b"", host="elsewhere.example") == (400, "Invalid host header")

    with urlopen(f"{served.url}/", timeout=30) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "://" not in page.read().decode()


@pytest.mark.browser
def test_a_picture_and_a_box_in_the_browser(served: Served, chromium: str, tmp_path: Path):
    with browsing(chromium, tmp_path, width=1000, height=800) as page:
        page.open(f"{served.url}/")
        page.until_shown("HRNet-W8 · 3 keypoints (paws) · crops of 64 x 96", "left_paw")
        page.choose("#file", served.picture)
        page.until_shown("1 pose, the whole picture as its box")
        whole = page.run("document.getElementById('points').innerText")

        left, top, width, height = page.run(
            "(({x, y, width, height}) => [x, y, width, height])"
            "(document.getElementById('canvas').getBoundingClientRect())"
        )
        place = {
            share: (left + share * width, top + share * height) for share in (0.1, 0.5, 0.6, 0.95)
        }
        page.drag(place[0.1], place[0.5])
        page.until("document.getElementById('said').textContent === '1 pose'")
        page.drag(place[0.6], place[0.95])
        page.until("document.getElementById('said').textContent === '2 poses'")

        x, y, box_width, box_height = page.run("boxes[0]")
        assert abs(x - 15) <= 1
        assert abs(y - 12) <= 1
        assert abs(box_width - 60) <= 1
        assert abs(box_height - 48) <= 1
        assert page.run("document.getElementById('points').innerText") != whole
        assert page.run("document.getElementById('json').href.startsWith('blob:')")
        drawn = "[...paper.getImageData(0, 0, canvas.width, canvas.height).data]"
        assert page.run(f"new Set({drawn}).size > 50")

        not_a_picture = tmp_path / "words.png"
        not_a_picture.write_text("no picture")
        page.choose("#file", not_a_picture)
        page.until_shown("words.png is no picture that this browser can show")


def test_ctrl_c_ends_it(tmp_path: Path):
    served = start(tmp_path)

    served.process.send_signal(signal.SIGINT)
    rest, _ = served.process.communicate(timeout=30)

    assert served.process.returncode == INTERRUPTED
    assert rest == "stopped\n"


def test_a_port_that_is_taken_is_named(tmp_path: Path):
    save_model(tmp_path, lively_model(), SPEC)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]

        with pytest.raises(UsageError) as refused:
            run(Args(model=str(tmp_path), port=port))

    assert refused.value.where.startswith(f"--host 127.0.0.1 --port {port}: ")
    assert "--port 0" in refused.value.fix

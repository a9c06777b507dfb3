"""Test `hrnet-ray serve` with a browser and with HTTP requests."""

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
from PIL import Image

from hrnet_ray.cli import EXIT_CODE_INTERRUPTED
from hrnet_ray.cli.serve import ServeArgs, run
from hrnet_ray.errors import UsageError
from hrnet_ray.inference.model_package import save_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.serving.app import MAX_UPLOAD_BYTES
from tests.browser import browsing
from tests.inference.paws import BOXES, SPEC, make_paws_model, make_test_image


@dataclass(frozen=True)
class Served:
    """A server with a small model, and the image to send."""

    process: subprocess.Popen[str]
    url: str
    image_path: Path

    def post(self, data: bytes, *, boxes: object = None, **headers: str) -> dict:
        text = boxes if isinstance(boxes, str) else json.dumps(boxes)
        query = "" if boxes is None else f"?boxes={quote(text)}"
        request = Request(f"{self.url}/predict{query}", data=data, method="POST", headers=headers)
        with urlopen(request, timeout=30) as answer:
            return json.load(answer)


def start(folder: Path) -> Served:
    save_model(folder / "model", make_paws_model(), SPEC)
    image_path = folder / "paws.png"
    cv2.imwrite(str(image_path), make_test_image()[..., ::-1])
    command = [sys.executable, "-m", "hrnet_ray.cli", "serve"]
    process = subprocess.Popen(
        [
            *command,
            "--model",
            str(folder / "model"),
            "--port",
            "0",
            "--allowed-hosts",
            "poses.example",
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if found := re.match(r"http://127\.0\.0\.1:\d+", line):
            return Served(process, found[0], image_path)
    raise AssertionError(f"ended with {process.wait()}")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = start(tmp_path_factory.mktemp("served"))
    yield served
    served.process.kill()
    served.process.wait()


def refusal(served: Served, data: bytes, **more) -> tuple[int, dict]:
    with pytest.raises(HTTPError) as refused:
        served.post(data, **more)
    answer = json.load(refused.value)
    assert answer.keys() == {"error", "where", "fix"}
    return refused.value.code, answer


def test_a_program_gets_what_the_predictor_returns(served: Served):
    found = served.post(served.image_path.read_bytes(), boxes=BOXES.tolist())

    ours = Predictor(make_paws_model(), SPEC)(make_test_image(), BOXES)
    assert (found["width"], found["height"]) == (150, 120)
    assert found["keypoints"] == ["left_paw", "right_paw", "nose"]
    assert [pose["box"] for pose in found["poses"]] == BOXES.tolist()
    points = np.array([pose["points"] for pose in found["poses"]])
    np.testing.assert_allclose(points[..., :2], ours.image_xy.numpy(), atol=0.01)
    np.testing.assert_allclose(points[..., 2], ours.scores.numpy(), rtol=1e-3, atol=0.001)


def test_without_boxes_the_whole_image_is_the_box(served: Served):
    (pose,) = served.post(served.image_path.read_bytes())["poses"]

    assert pose["box"] == [0, 0, 149, 119]
    assert served.post(served.image_path.read_bytes(), boxes=[])["poses"] == []


@pytest.mark.parametrize(
    "boxes",
    [
        [[1, 2, 3]],
        [[1, 2, 3, 0]],
        [[1, 2, 3, "4"]],
        [[1, 2, 3, True]],
        [[1, 2], [30, 40]],  # two corners are no box
        [1, 2, 3, 4],
        [[1e30, 0, 5, 5]],
        f"[[{'9' * 400}, 0, 5, 5]]",
        {"a": 1},
        [[0, 0, 9, 9]] * 1001,
        "[" * 9999,
    ],
    ids=lambda boxes: repr(boxes)[:40],
)
def test_invalid_boxes_are_refused(served: Served, boxes: object):
    status, answer = refusal(served, served.image_path.read_bytes(), boxes=boxes)

    assert status == 400
    assert answer["error"].startswith("invalid boxes: ")


@pytest.mark.parametrize(
    ("data", "status", "what"),
    [
        (b"", 400, "an image that cannot be read: empty file"),
        (b"hello", 400, "an image that cannot be read: not an image"),
        (b"\0" * (MAX_UPLOAD_BYTES + 1), 413, "the image is too large"),
    ],
    ids=["empty", "text", "too large"],
)
def test_a_body_that_is_no_image_is_refused(served: Served, data: bytes, status: int, what: str):
    found = refusal(served, data)

    assert (found[0], found[1]["error"]) == (status, what)


def test_an_unknown_path_gets_the_list_of_paths(served: Served):
    with pytest.raises(HTTPError) as refused:
        urlopen(f"{served.url}/docs", timeout=30)

    assert refused.value.code == 404
    assert "/predict" in json.load(refused.value)["fix"]
    assert refused.value.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "elsewhere.example"},  # DNS rebinding: a foreign name that resolves to this machine
        {"Host": "elsewhere.example:80@127.0.0.1:1"},
        {"Host": "[::1"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_origin_gets_no_answer(served: Served, headers: dict[str, str]):
    assert refusal(served, served.image_path.read_bytes(), **headers)[0] == 400


@pytest.mark.parametrize("host", ["localhost:1234", "192.168.1.5", "[::1]:8000", "poses.example"])
def test_ip_addresses_and_allowed_hosts_are_answered(served: Served, host: str):
    found = served.post(served.image_path.read_bytes(), Host=host, Origin=f"http://{host}")

    assert len(found["poses"]) == 1


def test_the_page_loads_nothing_from_other_hosts(served: Served):
    with urlopen(f"{served.url}/", timeout=30) as page:
        assert "default-src 'self'" in page.headers["Content-Security-Policy"]
        assert "://" not in page.read().decode()


@pytest.mark.browser
def test_an_image_and_a_box_in_the_browser(served: Served, chromium: str, tmp_path: Path):
    with browsing(chromium, tmp_path, width=1000, height=800) as page:
        page.open(f"{served.url}/")
        page.until_shown("HRNet-W8 · 3 keypoints (paws) · crops of 64 x 96", "left_paw")
        page.choose("#file", served.image_path)
        page.until_shown("1 pose, the whole image as its box")
        whole = page.run("document.getElementById('points').innerText")

        left, top, width, height = page.run(
            "(({x, y, width, height}) => [x, y, width, height])"
            "(document.getElementById('canvas').getBoundingClientRect())"
        )
        place = {share: (left + share * width, top + share * height) for share in (0.1, 0.5, 0.6, 0.95)}
        page.drag(place[0.1], place[0.5])
        page.until("document.getElementById('status').textContent === '1 pose'")
        page.drag(place[0.6], place[0.95])
        page.until("document.getElementById('status').textContent === '2 poses'")

        x, y, box_width, box_height = page.run("boxes[0]")
        assert abs(x - 15) <= 1
        assert abs(y - 12) <= 1
        assert abs(box_width - 60) <= 1
        assert abs(box_height - 48) <= 1
        assert page.run("document.getElementById('points').innerText") != whole
        drawn = "[...canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data]"
        assert page.run(f"new Set({drawn}).size > 50")
        page.key("Backspace", 8)
        page.until("document.getElementById('status').textContent === '1 pose'")
        assert page.run("boxes.length") == 1

        not_a_picture = tmp_path / "words.png"
        not_a_picture.write_text("no image")
        page.choose("#file", not_a_picture)
        page.until_shown("an image that cannot be read: not an image")
        assert page.run("document.getElementById('json').disabled")  # the results of the image before are gone
        assert page.run("document.querySelectorAll('td.number').length") == 0


@pytest.mark.browser
def test_an_image_with_exif_orientation_is_shown_as_the_model_sees_it(served: Served, chromium: str, tmp_path: Path):
    turned = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    Image.fromarray(make_test_image()).save(turned, exif=exif)

    with browsing(chromium, tmp_path, width=1000, height=800) as page:
        page.open(f"{served.url}/")
        page.until_shown("left_paw")
        page.choose("#file", turned)
        page.until_shown("1 pose")

        assert page.run("[bitmap.width, bitmap.height]") == [150, 120]
        assert page.run("[found.width, found.height]") == [150, 120]


def test_ctrl_c_stops_the_server_during_an_open_request(tmp_path: Path):
    served = start(tmp_path)
    port = int(served.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as stalled:
        stalled.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n.")
        assert served.post(served.image_path.read_bytes())["poses"]  # other requests are answered

        served.process.send_signal(signal.SIGINT)
        rest, _ = served.process.communicate(timeout=30)

    assert served.process.returncode == EXIT_CODE_INTERRUPTED
    assert rest == "Interrupted.\n"


@pytest.mark.parametrize(
    ("host", "port", "fix"),
    [
        ("127.0.0.1", None, "--port 0"),
        ("127.0.0.1", 70_000, "--port 0"),
        ("8.8.8.8", 0, "an address of this machine"),
        ("no.such.name.example", 0, "an address of this machine"),
        ("", 0, "an address of this machine"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(tmp_path: Path, host: str, port: int | None, fix: str):
    save_model(tmp_path, make_paws_model(), SPEC)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1] if port is None else port

        with pytest.raises(UsageError) as refused:
            run(ServeArgs(model=str(tmp_path), host=host, port=port))

    assert refused.value.where.startswith(f"--host {host} --port {port}: ")
    assert fix in refused.value.fix

"""What a model answers over HTTP.

GET  /          a page: drop a picture, draw boxes, see the poses
GET  /model     what it is: keypoints, bones, colours, size of a crop, scores
POST /predict   a picture's bytes -> poses; ?boxes=[[x, y, w, h], ...], or the whole picture
POST /picture   a picture's bytes -> the picture as the model sees it, as JPEG
"""

import asyncio
import json
import math
import traceback
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from hrnet_ray.data.annotations import numbers
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import Refused
from hrnet_ray.errors import DataError, HrnetRayError, UsageError
from hrnet_ray.inference.predictor import Predictor, whole_picture
from hrnet_ray.metrics.predictions import CONFIDENT, instance_scores
from hrnet_ray.serving.origin_guard import Guard, refusal
from hrnet_ray.visualization.drawing import bone_colours, side_colours

T = TypeVar("T")

HERE = Path(__file__).parent
LARGEST_BYTES = 64 * 2**20
"""Of a picture."""
READ_AND_DROPPED = 4 * LARGEST_BYTES
"""Of a larger one so much is read, so that the client comes to reading the answer."""
MOST_BOXES = 1000


class TooLarge(DataError):
    """More bytes than a picture may have."""


def app_of(predictor: Predictor, name: str, *, names: Collection[str]) -> Guard:
    """The application; it answers to addresses and to `names`, and to no other name."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their page asks a CDN
    about, turn = _about(predictor, name), asyncio.Lock()

    async def in_turn(request: Request, work: Callable[[bytes], T]) -> T | Response:
        """One at a time, from decoding on: each takes memory and all processors."""
        data = await _body(request)
        async with turn:
            if await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it
            return await run_in_threadpool(work, data)

    @app.exception_handler(HrnetRayError)
    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HrnetRayError)
        status = 413 if isinstance(error, TooLarge) else 400
        return refusal(error.what, error.where, error.fix, status=status)

    @app.exception_handler(HTTPException)
    async def not_found(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.url.path}"
        fix = "ask for /, /model, /predict or /picture"
        return refusal(str(error.detail).lower(), asked, fix, status=error.status_code)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        traceback.print_exception(
            error
        )  # a fault of ours, or no memory left: shown in the terminal
        where = f"{request.method} {request.url.path}: {type(error).__name__}"
        return refusal("the server failed", where, "its terminal says why", status=500)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def page() -> Response:
        return FileResponse(HERE / "page.html")

    @app.get("/page.js")
    async def script() -> Response:
        return FileResponse(HERE / "page.js", media_type="text/javascript")

    @app.get("/model")
    async def model() -> dict[str, Any]:
        return about

    @app.post("/predict", response_model=None)
    async def predict(request: Request) -> dict[str, Any] | Response:
        text = request.query_params.get("boxes")
        boxes = None if text is None else _boxes(text)
        return await in_turn(request, lambda data: _poses(predictor, _opened(data), boxes))

    @app.post("/picture", response_model=None)
    async def picture(request: Request) -> Response:
        return await in_turn(request, _seen)

    return Guard(app, names)


def _about(predictor: Predictor, name: str) -> dict[str, Any]:
    spec = predictor.spec
    place = {keypoint: at for at, keypoint in enumerate(spec.skeleton.keypoints)}
    return {
        "name": name,
        "net": f"HRNet-W{spec.width}",
        "skeleton": spec.skeleton.name,
        "keypoints": list(spec.skeleton.keypoints),
        "colours": list(map(_hex, side_colours(spec.skeleton))),
        "bones": [[place[one], place[other]] for one, other in spec.skeleton.bones],
        "bone_colours": list(map(_hex, bone_colours(spec.skeleton))),
        "confident": CONFIDENT,
        "input_hw": list(spec.input_hw),
        "trained_on": spec.trained_on,
        "scores": {key: value for key, value in spec.scores.items() if math.isfinite(value)},
    }


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


async def _body(request: Request) -> bytes:
    """The bytes that were sent; none where the client went away.

    Raises:
        TooLarge: they are too many.
    """
    data, count = bytearray(), 0
    try:
        async for chunk in request.stream():
            count += len(chunk)
            if count <= LARGEST_BYTES:
                data += chunk
            elif count > READ_AND_DROPPED:
                break
            else:
                data.clear()
    except ClientDisconnect:
        return b""
    if count > LARGEST_BYTES:
        most = f"{LARGEST_BYTES // 2**20} MB at most"
        raise TooLarge("a picture that is too large", most, "send a smaller one")
    return bytes(data)


def _opened(data: bytes) -> np.ndarray:
    picture = codec.open_picture(data)
    if isinstance(picture, Refused):
        raise DataError(
            f"a picture that cannot be read: {picture.reason}",
            picture.detail,
            "give a JPEG or PNG file",
        )
    return picture


def _seen(data: bytes) -> Response:
    """As stored, whatever its EXIF asks, and without what is transparent: so the model sees it."""
    return Response(codec.encode_jpeg(_opened(data)), media_type="image/jpeg")


def _boxes(text: str) -> np.ndarray:
    """Float64 [N, 4].

    Raises:
        UsageError: they are no boxes.
    """
    try:
        given = json.loads(text)
        if not isinstance(given, list) or len(given) > MOST_BOXES:
            raise ValueError(f"no list of {MOST_BOXES:,} boxes at most")
        boxes = np.array([numbers(box, 4, f"[{at}]") for at, box in enumerate(given)])
        if len(boxes) and not (boxes[:, 2:] > 0).all():
            raise ValueError("a width or height that is not above 0")
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"boxes that are none ({error})",
            f"boxes={text[:80]}",
            "give [[x, y, width, height], ...] in pixels",
        ) from error
    return boxes.reshape(-1, 4)


def _poses(predictor: Predictor, picture: np.ndarray, given: np.ndarray | None) -> dict[str, Any]:
    boxes = whole_picture(picture) if given is None else given
    found = predictor(picture, boxes)
    points = np.concatenate([found.image_xy.numpy(), found.scores.numpy()[..., None]], axis=-1)
    height, width = picture.shape[:2]
    return {
        "width": width,
        "height": height,
        "keypoints": list(predictor.spec.skeleton.keypoints),
        "poses": [
            {"box": box, "score": score, "points": [[round(v, 3) for v in point] for point in pose]}
            for box, score, pose in zip(
                boxes.tolist(), instance_scores(found).tolist(), points.tolist(), strict=True
            )
        ],
    }

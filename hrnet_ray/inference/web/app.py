"""What a model answers over HTTP.

GET  /          a page: drop a picture, draw boxes, see the poses
GET  /model     what it is: keypoints, bones, colours, size of a crop, scores
POST /predict   a picture's bytes -> poses; ?boxes=[[x, y, w, h], ...], or the whole picture
"""

import json
import math
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.middleware.trustedhost import TrustedHostMiddleware

from hrnet_ray.data import pictures
from hrnet_ray.data.drawing import side_colours
from hrnet_ray.data.pictures import Refused
from hrnet_ray.errors import DataError, HrnetRayError, UsageError
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.learning.scores import instance_scores

HERE = Path(__file__).parent
LARGEST_BYTES = 64 * 2**20
"""Of a picture."""
MOST_BOXES = 1000
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:; "
    "style-src 'self' 'unsafe-inline'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


def app_of(predictor: Predictor, name: str, *, hosts: list[str]) -> FastAPI:
    """The application; it answers requests that were meant for one of `hosts` (`*`: any)."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their page asks a CDN
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts)
    about, one_at_a_time = _about(predictor, name), Lock()

    @app.middleware("http")
    async def with_headers(request: Request, answer: Any) -> Response:
        response = await answer(request)
        response.headers.update(HEADERS)
        return response

    @app.exception_handler(HrnetRayError)
    async def refused(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HrnetRayError)
        said = {"error": error.what, "where": error.where, "fix": error.fix}
        return JSONResponse(said, status_code=400)

    @app.get("/")
    async def page() -> Response:
        return FileResponse(HERE / "page.html")

    @app.get("/page.js")
    async def script() -> Response:
        return FileResponse(HERE / "page.js", media_type="text/javascript")

    @app.get("/model")
    async def model() -> dict[str, Any]:
        return about

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        data, boxes = await _body(request), request.query_params.get("boxes")
        return await run_in_threadpool(answered, data, boxes)

    def answered(data: bytes, boxes: str | None) -> dict[str, Any]:
        picture = _opened(data)
        with one_at_a_time:  # two at a time would each take twice as long, and twice the memory
            return _poses(predictor, picture, _boxes(boxes, picture))

    return app


def _about(predictor: Predictor, name: str) -> dict[str, Any]:
    spec = predictor.spec
    place = {keypoint: at for at, keypoint in enumerate(spec.skeleton.keypoints)}
    return {
        "name": name,
        "net": f"HRNet-W{spec.width}",
        "skeleton": spec.skeleton.name,
        "keypoints": list(spec.skeleton.keypoints),
        "bones": [[place[one], place[other]] for one, other in spec.skeleton.bones],
        "colours": ["#{:02x}{:02x}{:02x}".format(*rgb) for rgb in side_colours(spec.skeleton)],
        "input_hw": list(spec.input_hw),
        "trained_on": spec.trained_on,
        "scores": {key: value for key, value in spec.scores.items() if math.isfinite(value)},
    }


async def _body(request: Request) -> bytes:
    """The bytes that were sent.

    Raises:
        DataError: they are too many; the rest is not read.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > LARGEST_BYTES:
            most = f"{LARGEST_BYTES // 2**20} MB at most"
            raise DataError("a picture that is too large", most, "send a smaller one")
    return bytes(data)


def _opened(data: bytes) -> np.ndarray:
    picture = pictures.open_picture(data)
    if isinstance(picture, Refused):
        raise DataError(
            f"a picture that cannot be read: {picture.reason}",
            picture.detail,
            "send the bytes of a JPEG or PNG file as the body",
        )
    return picture


def _boxes(text: str | None, picture: np.ndarray) -> np.ndarray:
    """Float64 [N, 4]: what was asked for, or the whole picture.

    Raises:
        UsageError: they are no boxes.
    """
    if text is None:
        height, width = picture.shape[:2]
        return np.array([[0.0, 0.0, max(1, width - 1), max(1, height - 1)]])
    try:
        boxes = np.array(json.loads(text), np.float64).reshape(-1, 4)
        whole = len(boxes) <= MOST_BOXES and np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()
    except (ValueError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise UsageError(
            "boxes that are none",
            f"boxes={text[:80]}",
            f"give [[x, y, width, height], ...] in pixels, {MOST_BOXES:,} at most",
        )
    return boxes


def _poses(predictor: Predictor, picture: np.ndarray, boxes: np.ndarray) -> dict[str, Any]:
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

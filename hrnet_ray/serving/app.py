"""What a model answers over HTTP.

GET  /          a page: drop an image, draw boxes, see the poses
GET  /model     what it is: keypoints, bones, colours, size of a crop, scores
POST /predict   a picture's bytes -> poses; ?boxes=[[x, y, w, h], ...], or the whole image
POST /picture   a picture's bytes -> the image as the model sees it, as JPEG
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

from hrnet_ray.data.annotations import parse_numbers
from hrnet_ray.data.images import codec
from hrnet_ray.data.images.codec import RejectedImage
from hrnet_ray.errors import DataError, HrnetRayError, UsageError
from hrnet_ray.inference.predictor import Predictor, make_full_image_box
from hrnet_ray.metrics.predictions import KEYPOINT_SCORE_THRESHOLD, compute_pose_scores
from hrnet_ray.serving.origin_guard import OriginGuardMiddleware, make_error_response
from hrnet_ray.visualization.drawing import get_bone_colors, get_keypoint_colors

T = TypeVar("T")

STATIC_DIR = Path(__file__).parent
MAX_UPLOAD_BYTES = 64 * 2**20
"""Of an image."""
MAX_DISCARDED_BYTES = 4 * MAX_UPLOAD_BYTES
"""Of a larger one so much is read, so that the client comes to reading the answer."""
MAX_BOXES = 1000


class PayloadTooLarge(DataError):
    """More bytes than an image may have."""


def create_app(predictor: Predictor, model_name: str, *, allowed_hosts: Collection[str]) -> OriginGuardMiddleware:
    """The application; it answers to addresses and to `names`, and to no other name."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # their page asks a CDN
    about, turn = _describe_model(predictor, model_name), asyncio.Lock()

    async def run_exclusively(request: Request, process_bytes: Callable[[bytes], T]) -> T | Response:
        """One at a time, from decoding on: each takes memory and all processors."""
        data = await _read_body(request)
        async with turn:
            if await request.is_disconnected():
                return Response(status_code=499)  # the client has disconnected
            return await run_in_threadpool(process_bytes, data)

    @app.exception_handler(HrnetRayError)
    async def handle_known_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HrnetRayError)
        status = 413 if isinstance(error, PayloadTooLarge) else 400
        return make_error_response(error.what, error.where, error.fix, status=status)

    @app.exception_handler(HTTPException)
    async def handle_http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        asked = f"{request.method} {request.url.path}"
        fix = "ask for /, /model, /predict or /picture"
        return make_error_response(str(error.detail).lower(), asked, fix, status=error.status_code)

    @app.exception_handler(Exception)
    async def handle_unexpected_error(request: Request, error: Exception) -> Response:
        traceback.print_exception(error)  # a fault of ours, or no memory left: shown in the terminal
        where = f"{request.method} {request.url.path}: {type(error).__name__}"
        return make_error_response("the server failed", where, "its terminal says why", status=500)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def serve_page() -> Response:
        return FileResponse(STATIC_DIR / "page.html")

    @app.get("/page.js")
    async def serve_script() -> Response:
        return FileResponse(STATIC_DIR / "page.js", media_type="text/javascript")

    @app.get("/model")
    async def get_model_info() -> dict[str, Any]:
        return about

    @app.post("/predict", response_model=None)
    async def predict_poses(request: Request) -> dict[str, Any] | Response:
        text = request.query_params.get("boxes")
        boxes = None if text is None else _parse_boxes(text)
        return await run_exclusively(request, lambda data: _predict_poses(predictor, _decode_upload(data), boxes))

    @app.post("/picture", response_model=None)
    async def serve_decoded_image(request: Request) -> Response:
        return await run_exclusively(request, _convert_to_jpeg)

    return OriginGuardMiddleware(app, allowed_hosts)


def _describe_model(predictor: Predictor, model_name: str) -> dict[str, Any]:
    spec = predictor.spec
    place = {keypoint: at for at, keypoint in enumerate(spec.skeleton.keypoints)}
    return {
        "name": model_name,
        "net": f"HRNet-W{spec.width}",
        "skeleton": spec.skeleton.name,
        "keypoints": list(spec.skeleton.keypoints),
        "colours": list(map(_format_hex_color, get_keypoint_colors(spec.skeleton))),
        "bones": [[place[one], place[other]] for one, other in spec.skeleton.bones],
        "bone_colours": list(map(_format_hex_color, get_bone_colors(spec.skeleton))),
        "confident": KEYPOINT_SCORE_THRESHOLD,
        "input_hw": list(spec.input_hw),
        "trained_on": spec.trained_on,
        "scores": {key: value for key, value in spec.scores.items() if math.isfinite(value)},
    }


def _format_hex_color(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


async def _read_body(request: Request) -> bytes:
    """The bytes that were sent; none where the client went away.

    Raises:
        TooLarge: they are too many.
    """
    data, count = bytearray(), 0
    try:
        async for chunk in request.stream():
            count += len(chunk)
            if count <= MAX_UPLOAD_BYTES:
                data += chunk
            elif count > MAX_DISCARDED_BYTES:
                break
            else:
                data.clear()
    except ClientDisconnect:
        return b""
    if count > MAX_UPLOAD_BYTES:
        most = f"{MAX_UPLOAD_BYTES // 2**20} MB at most"
        raise PayloadTooLarge("an image that is too large", most, "send a smaller one")
    return bytes(data)


def _decode_upload(data: bytes) -> np.ndarray:
    picture = codec.decode_or_reject(data)
    if isinstance(picture, RejectedImage):
        raise DataError(
            f"an image that cannot be read: {picture.reason}",
            picture.detail,
            "give a JPEG or PNG file",
        )
    return picture


def _convert_to_jpeg(data: bytes) -> Response:
    """Decode as stored: without EXIF rotation and transparency, as the model was trained."""
    return Response(codec.encode_jpeg(_decode_upload(data)), media_type="image/jpeg")


def _parse_boxes(text: str) -> np.ndarray:
    """Float64 [N, 4].

    Raises:
        UsageError: they are no boxes.
    """
    try:
        given = json.loads(text)
        if not isinstance(given, list) or len(given) > MAX_BOXES:
            raise ValueError(f"no list of {MAX_BOXES:,} boxes at most")
        boxes = np.array([parse_numbers(box, 4, f"[{at}]") for at, box in enumerate(given)])
        if len(boxes) and not (boxes[:, 2:] > 0).all():
            raise ValueError("a width or height that is not above 0")
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"boxes that are none ({error})",
            f"boxes={text[:80]}",
            "give [[x, y, width, height], ...] in pixels",
        ) from error
    return boxes.reshape(-1, 4)


def _predict_poses(predictor: Predictor, image: np.ndarray, requested_boxes: np.ndarray | None) -> dict[str, Any]:
    boxes = make_full_image_box(image) if requested_boxes is None else requested_boxes
    found = predictor(image, boxes)
    points = np.concatenate([found.image_xy.numpy(), found.scores.numpy()[..., None]], axis=-1)
    height, width = image.shape[:2]
    return {
        "width": width,
        "height": height,
        "keypoints": list(predictor.spec.skeleton.keypoints),
        "poses": [
            {"box": box, "score": score, "points": [[round(v, 3) for v in point] for point in pose]}
            for box, score, pose in zip(
                boxes.tolist(), compute_pose_scores(found).tolist(), points.tolist(), strict=True
            )
        ],
    }

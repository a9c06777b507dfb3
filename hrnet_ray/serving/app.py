"""HTTP application of a model.

GET  /          web page: drop an image, draw boxes, see the poses
GET  /model     description of the model: keypoints, bones, colors, crop size, scores
POST /predict   image file -> poses; ?boxes=[[x, y, w, h], ...], default: the whole image
POST /picture   image file -> JPEG of the image as the model receives it
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
"""Maximum size of an image file."""
MAX_DISCARDED_BYTES = 4 * MAX_UPLOAD_BYTES
"""Bytes read of a larger file before the error response; clients read a response only after sending."""
MAX_BOXES = 1000


class PayloadTooLarge(DataError):
    """The request body exceeds MAX_UPLOAD_BYTES."""


def create_app(predictor: Predictor, model_name: str, *, allowed_hosts: Collection[str]) -> OriginGuardMiddleware:
    """Create the application. It accepts IP addresses and `allowed_hosts` in the Host header."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)  # these pages load scripts from a CDN
    model_info, lock = _describe_model(predictor, model_name), asyncio.Lock()

    async def run_exclusively(request: Request, process_bytes: Callable[[bytes], T]) -> T | Response:
        """Process one request at a time, from decoding on, because each uses all processors."""
        data = await _read_body(request)
        async with lock:
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
        where = f"{request.method} {request.url.path}"
        fix = "request /, /model, /predict or /picture"
        return make_error_response(str(error.detail).lower(), where, fix, status=error.status_code)

    @app.exception_handler(Exception)
    async def handle_unexpected_error(request: Request, error: Exception) -> Response:
        traceback.print_exception(error)  # a bug, or out of memory
        where = f"{request.method} {request.url.path}: {type(error).__name__}"
        return make_error_response("the server failed", where, "see the traceback in the server's terminal", status=500)

    @app.api_route("/", methods=["GET", "HEAD"])
    async def serve_page() -> Response:
        return FileResponse(STATIC_DIR / "page.html")

    @app.get("/page.js")
    async def serve_script() -> Response:
        return FileResponse(STATIC_DIR / "page.js", media_type="text/javascript")

    @app.get("/model")
    async def get_model_info() -> dict[str, Any]:
        return model_info

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
    index_of = {keypoint: index for index, keypoint in enumerate(spec.skeleton.keypoints)}
    return {
        "name": model_name,
        "net": f"HRNet-W{spec.width}",
        "skeleton": spec.skeleton.name,
        "keypoints": list(spec.skeleton.keypoints),
        "colours": list(map(_format_hex_color, get_keypoint_colors(spec.skeleton))),
        "bones": [[index_of[first], index_of[second]] for first, second in spec.skeleton.bones],
        "bone_colours": list(map(_format_hex_color, get_bone_colors(spec.skeleton))),
        "confident": KEYPOINT_SCORE_THRESHOLD,
        "input_hw": list(spec.input_hw),
        "trained_on": spec.trained_on,
        "scores": {key: value for key, value in spec.scores.items() if math.isfinite(value)},
    }


def _format_hex_color(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


async def _read_body(request: Request) -> bytes:
    """Read the request body; empty if the client disconnects.

    Raises:
        PayloadTooLarge: the body exceeds MAX_UPLOAD_BYTES.
    """
    data, num_bytes = bytearray(), 0
    try:
        async for chunk in request.stream():
            num_bytes += len(chunk)
            if num_bytes <= MAX_UPLOAD_BYTES:
                data += chunk
            elif num_bytes > MAX_DISCARDED_BYTES:
                break
            else:
                data.clear()
    except ClientDisconnect:
        return b""
    if num_bytes > MAX_UPLOAD_BYTES:
        limit = f"at most {MAX_UPLOAD_BYTES // 2**20} MB"
        raise PayloadTooLarge("the image is too large", limit, "send a smaller image")
    return bytes(data)


def _decode_upload(data: bytes) -> np.ndarray:
    image = codec.decode_or_reject(data)
    if isinstance(image, RejectedImage):
        raise DataError(
            f"an image that cannot be read: {image.reason}",
            image.detail,
            "send a JPEG or PNG file",
        )
    return image


def _convert_to_jpeg(data: bytes) -> Response:
    """Convert an image to JPEG as stored: without EXIF rotation and transparency, as in training."""
    return Response(codec.encode_jpeg(_decode_upload(data)), media_type="image/jpeg")


def _parse_boxes(text: str) -> np.ndarray:
    """Parse the query parameter `boxes`: float64 [N, 4].

    Raises:
        UsageError: the text is not a list of boxes.
    """
    try:
        entries = json.loads(text)
        if not isinstance(entries, list) or len(entries) > MAX_BOXES:
            raise ValueError(f"it must be a list of at most {MAX_BOXES:,} boxes")
        boxes = np.array([parse_numbers(box, 4, f"[{index}]") for index, box in enumerate(entries)])
        if len(boxes) and not (boxes[:, 2:] > 0).all():
            raise ValueError("width and height must be above 0")
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"invalid boxes: {error}",
            f"boxes={text[:80]}",
            "use [[x, y, width, height], ...] in pixels",
        ) from error
    return boxes.reshape(-1, 4)


def _predict_poses(predictor: Predictor, image: np.ndarray, requested_boxes: np.ndarray | None) -> dict[str, Any]:
    boxes = make_full_image_box(image) if requested_boxes is None else requested_boxes
    predictions = predictor(image, boxes)
    points = np.concatenate([predictions.image_xy.numpy(), predictions.scores.numpy()[..., None]], axis=-1)
    height, width = image.shape[:2]
    return {
        "width": width,
        "height": height,
        "keypoints": list(predictor.spec.skeleton.keypoints),
        "poses": [
            {"box": box, "score": score, "points": [[round(v, 3) for v in point] for point in pose]}
            for box, score, pose in zip(
                boxes.tolist(), compute_pose_scores(predictions).tolist(), points.tolist(), strict=True
            )
        ],
    }

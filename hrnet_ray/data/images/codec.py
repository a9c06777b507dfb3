"""Image files to RGB arrays and back. The only place that decodes or encodes.

Coordinates in MPII and ATRW count stored pixels, so EXIF orientation is ignored everywhere.
"""

import hashlib
from pathlib import Path

import cv2
import numpy as np

from hrnet_ray.data.images import headers
from hrnet_ray.data.images.headers import (
    RejectedImage as RejectedImage,
    RejectReason as RejectReason,
    read_size_hw as read_size_hw,
)
from hrnet_ray.errors import DataError
from hrnet_ray.utils.files import write_bytes_atomically

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_READ_FLAGS = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION


def decode_image(data: bytes) -> np.ndarray | None:
    """RGB uint8 [H, W, 3], or None for bytes that are no intact image (see `explain_rejection`)."""
    return None if headers.find_problem(data) else _decode_with_opencv(data)


def explain_rejection(data: bytes) -> RejectedImage:
    """Why `decode` refused these bytes. They are not decoded again."""
    return headers.find_problem(data) or RejectedImage(RejectReason.CORRUPT, headers.describe_image(data))


def decode_or_reject(data: bytes) -> np.ndarray | RejectedImage:
    """RGB uint8 [H, W, 3], or why there is none."""
    picture = decode_image(data)
    return explain_rejection(data) if picture is None else picture


def _decode_with_opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(headers.clear_tiff_orientation(data), np.uint8), _READ_FLAGS)
    except cv2.error:  # some damages are raised, and some answered with None
        return None


def encode_jpeg(image: np.ndarray, *, quality: int = 95) -> bytes:
    """JPEG bytes of an RGB uint8 [H, W, 3] image."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    written, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert written  # memory only: nothing here can be full or missing
    return data.tobytes()


def read_image(path: Path) -> np.ndarray:
    """Decode one image file.

    Raises:
        DataError: it is missing, or `open_picture` refuses it.
    """
    return read_image_with_orientation(path)[0]


def read_image_with_orientation(path: Path) -> tuple[np.ndarray, bool]:
    """Decode an image file, and return whether it has an EXIF orientation, which is ignored.

    Raises:
        DataError: it is missing, or `open_picture` refuses it.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("an image that cannot be opened", f"{path}: {error.strerror}", "check the path") from error
    picture = decode_or_reject(data)
    if isinstance(picture, RejectedImage):
        raise DataError(
            f"an image that cannot be read: {picture.reason}",
            f"{path}: {picture.detail}",
            "replace it",
        )
    return picture, headers.has_exif_orientation(data)


def write_image(path: Path, image: np.ndarray) -> None:
    """Write an RGB image; the suffix of `path` selects the format.

    Raises:
        DataError: its folder cannot be written, or the ending is unknown.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_atomically(path, _encode_image(path.suffix, image))  # OpenCV dies of names that are no UTF-8
    except (OSError, ValueError, cv2.error) as error:  # a file in place of a folder, for example
        raise DataError(
            "an image that cannot be written",
            str(path),
            f"check the folder, and the ending: {', '.join(IMAGE_SUFFIXES)}",
        ) from error


def _encode_image(suffix: str, image: np.ndarray) -> bytes:
    """Raises ValueError or cv2.error where it cannot be done."""
    suffix.encode()  # half a character: UnicodeEncodeError is a ValueError
    written, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not written:
        raise ValueError(f"an image that no {suffix} can hold")
    return data.tobytes()


def resize_image(image: np.ndarray, *, size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Scale an image to `size_hw`, smoothly down or up.

    Returns:
        The scaled image, and the matrix [3, 3] that leads into it from the image.
    """
    height, width = size_hw
    across, down = width / image.shape[1], height / image.shape[0]
    flags = cv2.INTER_AREA if min(across, down) < 1 else cv2.INTER_LINEAR
    # A pixel is a small square around its whole number: hence the halves.
    matrix = np.array([[across, 0, (across - 1) / 2], [0, down, (down - 1) / 2], [0, 0, 1]])
    return cv2.resize(image, (width, height), interpolation=flags), matrix


def hash_bytes(data: bytes) -> str:
    """The fingerprint that the manifest and the rows keep."""
    return hashlib.sha256(data).hexdigest()

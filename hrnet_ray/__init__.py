"""HRNet keypoint detection: trained, tuned and tracked on Ray.

Importing this loads neither ray nor mlflow, and torch only when a name that needs it is used.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

# OpenCV reads both once, at its import, wherever that happens. 8192 x 8192 pixels are enough: a
# 124 kB PNG of 32,000 x 32,000 would take 3 GB to decode.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

from hrnet_ray.skeletons import ATRW as ATRW, COCO as COCO, MPII as MPII, Skeleton as Skeleton

if TYPE_CHECKING:
    from hrnet_ray.inference.predictor import Predictor as Predictor
    from hrnet_ray.models import HRNet as HRNet
    from hrnet_ray.pose.heatmaps import (
        decode_heatmaps as decode_heatmaps,
        encode_heatmaps as encode_heatmaps,
    )

_LAZY_IMPORTS = {
    "HRNet": "hrnet_ray.models",
    "Predictor": "hrnet_ray.inference.predictor",
    "decode_heatmaps": "hrnet_ray.pose.heatmaps",
    "encode_heatmaps": "hrnet_ray.pose.heatmaps",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LAZY_IMPORTS[name]), name)

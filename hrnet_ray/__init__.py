"""HRNet keypoint detection: trained, tuned and tracked on Ray.

Importing this loads neither ray nor mlflow; a notebook or an edge device can use the model alone.
"""

import os

# OpenCV reads both once, at its import, wherever that happens. 8192 x 8192 pixels are enough: a
# 124 kB PNG of 32,000 x 32,000 would take 3 GB to decode.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(2**26))
os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")

from hrnet_ray.models import HRNet as HRNet
from hrnet_ray.pose.heatmaps import (
    decode_heatmaps as decode_heatmaps,
    encode_heatmaps as encode_heatmaps,
)
from hrnet_ray.skeletons import (
    ATRW as ATRW,
    COCO as COCO,
    MPII as MPII,
    Skeleton as Skeleton,
)

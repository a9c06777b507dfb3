"""HRNet keypoint detection: trained, tuned and tracked on Ray.

Importing this loads neither ray nor mlflow; a notebook or an edge device can use the model alone.
"""

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

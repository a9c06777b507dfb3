"""A trained model as one function of crops: what other programs load, without this package.

Crops go in as they are cut, keypoints come out: normalising, the flip test, and the reading of the
heatmaps are inside the exported module, so that none of them can be forgotten.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hrnet_ray.config import HEATMAP_STRIDE
from hrnet_ray.data.batch import normalize_crops
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predict_loop import compute_dark_kernel_size
from hrnet_ray.inference.predictor import build_decode_config
from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import fold_batchnorm
from hrnet_ray.pose.heatmaps import average_flipped_heatmaps, decode_heatmaps


class KeypointExportModule(nn.Module):
    """Uint8 RGB crops [B, H, W, 3] to float32 [B, K, 3]: x and y in pixels of the crop, and score.

    The flip test looks at a batch and its mirror image in one pass: half the graph to export.
    """

    def __init__(self, model: HRNet, spec: ModelSpec) -> None:
        super().__init__()
        self.net = fold_batchnorm(model).requires_grad_(False)
        self.decoding = build_decode_config(spec)

    def forward(self, crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B K 3"]:
        """Find the keypoints of each crop."""
        return self.decode_keypoints(self.compute_heatmaps(crops))

    def compute_heatmaps(self, crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B K h w"]:
        """What the net sees, merged with what it sees in the mirror."""
        upright = normalize_crops(crops)
        if self.decoding.flip_order is None:
            return self.net(upright)
        seen, mirrored = self.net(torch.cat([upright, upright.flip(-1)])).tensor_split(2)
        return average_flipped_heatmaps(
            seen, mirrored, flip_order=self.decoding.flip_order, shift=self.decoding.shift_heatmap
        )

    def decode_keypoints(self, heatmaps: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K 3"]:
        """Where each map is highest, in pixels of the crop, and how high."""
        heatmap_xy, scores = decode_heatmaps(
            heatmaps,
            method=self.decoding.method,
            kernel_size=compute_dark_kernel_size(self.decoding.sigma),
        )
        return torch.cat([heatmap_xy * HEATMAP_STRIDE, scores[..., None]], dim=-1)


class KeypointHeatmapExportModule(KeypointExportModule):
    """The same, with the heatmaps [B, K, h, w] beside the keypoints."""

    def forward(self, crops: UInt8[Tensor, "B H W 3"]) -> tuple[Float[Tensor, "B K 3"], Float[Tensor, "B K h w"]]:
        """Find the keypoints of each crop, and show the maps they were read from."""
        heatmaps = self.compute_heatmaps(crops)
        return self.decode_keypoints(heatmaps), heatmaps

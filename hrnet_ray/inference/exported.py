"""A trained model as one function of crops: what other programs load, without this package.

Crops go in as they are cut, keypoints come out: normalising, the flip test, and the reading of the
heatmaps are inside, so that nobody can forget one of them.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hrnet_ray.inference.model_folder import ModelSpec
from hrnet_ray.inference.predictor import STRIDE, decoding_of
from hrnet_ray.learning.batch import model_input
from hrnet_ray.learning.loop import dark_kernel
from hrnet_ray.models import HRNet
from hrnet_ray.models.folding import folded
from hrnet_ray.pose.heatmaps import decode_heatmaps, merge_flipped


class CropsToKeypoints(nn.Module):
    """Uint8 RGB crops [B, H, W, 3] to float32 [B, K, 3]: x and y in pixels of the crop, and score.

    The flip test looks at a batch and its mirror image in one pass: half the graph to export.
    """

    def __init__(self, model: HRNet, spec: ModelSpec) -> None:
        super().__init__()
        self.net = folded(model).requires_grad_(False)
        self.decoding = decoding_of(spec)

    def forward(self, crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B K 3"]:
        """Find the keypoints of each crop."""
        heatmap_xy, scores = decode_heatmaps(
            self._heatmaps(model_input(crops)),
            method=self.decoding.method,
            kernel=dark_kernel(self.decoding.sigma),
        )
        return torch.cat([heatmap_xy * STRIDE, scores[..., None]], dim=-1)

    def _heatmaps(self, crops: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B K h w"]:
        if self.decoding.flip_order is None:
            return self.net(crops)
        upright, mirrored = self.net(torch.cat([crops, crops.flip(-1)])).tensor_split(2)
        return merge_flipped(
            upright, mirrored, flip_order=self.decoding.flip_order, shift=self.decoding.shift
        )

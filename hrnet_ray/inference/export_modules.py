"""A trained model as one function of crops: what other programs load, without this package.

Crops go in as they are cut, keypoints come out: normalising, the flip test, and the reading of the
heatmaps are inside, so that nobody can forget one of them.
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from hrnet_ray.data.batch import model_input
from hrnet_ray.inference.model_package import ModelSpec
from hrnet_ray.inference.predict_loop import dark_kernel
from hrnet_ray.inference.predictor import STRIDE, decoding_of
from hrnet_ray.models import HRNet
from hrnet_ray.models.bn_folding import folded
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
        return self.read(self.heatmaps(crops))

    def heatmaps(self, crops: UInt8[Tensor, "B H W 3"]) -> Float[Tensor, "B K h w"]:
        """What the net sees, merged with what it sees in the mirror."""
        upright = model_input(crops)
        if self.decoding.flip_order is None:
            return self.net(upright)
        seen, mirrored = self.net(torch.cat([upright, upright.flip(-1)])).tensor_split(2)
        return merge_flipped(
            seen, mirrored, flip_order=self.decoding.flip_order, shift=self.decoding.shift
        )

    def read(self, heatmaps: Float[Tensor, "B K h w"]) -> Float[Tensor, "B K 3"]:
        """Where each map is highest, in pixels of the crop, and how high."""
        heatmap_xy, scores = decode_heatmaps(
            heatmaps, method=self.decoding.method, kernel=dark_kernel(self.decoding.sigma)
        )
        return torch.cat([heatmap_xy * STRIDE, scores[..., None]], dim=-1)


class CropsToKeypointsAndHeatmaps(CropsToKeypoints):
    """The same, with the heatmaps [B, K, h, w] beside the keypoints."""

    def forward(
        self, crops: UInt8[Tensor, "B H W 3"]
    ) -> tuple[Float[Tensor, "B K 3"], Float[Tensor, "B K h w"]]:
        """Find the keypoints of each crop, and show the maps they were read from."""
        heatmaps = self.heatmaps(crops)
        return self.read(heatmaps), heatmaps

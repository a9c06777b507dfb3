"""Training targets of a keypoint model: target heatmaps, and the loss functions by name."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from hrnet_ray.pose.heatmaps import encode_heatmaps
from hrnet_ray.pose.losses import keypoint_mse_loss, keypoint_ohkm_loss

LOSS_FUNCTIONS = {"mse": keypoint_mse_loss, "ohkm": keypoint_ohkm_loss}


@dataclass(frozen=True, kw_only=True)
class HeatmapTargetConfig:
    """Sizes and sigma of the target heatmaps, and the name of the loss."""

    input_hw: tuple[int, int]
    heatmap_hw: tuple[int, int]
    sigma: float
    quantize_center: bool = True
    loss: str = "mse"


def encode_targets(
    crop_xy: Float[Tensor, "B K 2"], visible: Bool[Tensor, "B K"], target: HeatmapTargetConfig
) -> tuple[Float[Tensor, "B K h w"], Float[Tensor, "B K"]]:
    return encode_heatmaps(
        crop_xy,
        visible,
        input_hw=target.input_hw,
        heatmap_hw=target.heatmap_hw,
        sigma=target.sigma,
        rounded=target.quantize_center,
    )

"""The HRNet model, pretrained weights and fused BatchNorm."""

from hrnet_ray.models.hrnet import HRNet

__all__ = ["HRNet"]

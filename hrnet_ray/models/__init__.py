"""The network and its weights."""

from hrnet_ray.models.hrnet import HRNet

__all__ = ["HRNet"]

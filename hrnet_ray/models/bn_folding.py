"""Fold BatchNorms into the convolutions before them, for evaluation."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hrnet_ray.models.fused_batchnorm import FusedBatchNorm2d


@torch.no_grad()
def fold_batchnorm(model: nn.Module, *, bf16: bool = False) -> nn.Module:
    """Copy `model` for evaluation, with each BatchNorm folded into the convolution before it.

    Outputs are equal up to fp32 rounding. The copy cannot be trained. A BatchNorm that does not
    follow a convolution stays. With `bf16`, folded weights are rounded once instead of by autocast
    in each forward pass; the heatmaps are the same.
    """
    model = copy.deepcopy(model).eval()
    for parent in list(model.modules()):
        for conv, norm in _find_conv_norm_pairs(parent):
            convolution, normalisation = getattr(parent, conv), getattr(parent, norm)
            fused = fuse_conv_bn_eval(convolution, normalisation)
            setattr(parent, conv, fused.bfloat16() if bf16 else fused)
            setattr(
                parent,
                norm,
                nn.ReLU(inplace=True) if _has_fused_relu(normalisation) else nn.Identity(),
            )
    return model


def _has_fused_relu(norm: nn.Module) -> bool:
    return isinstance(norm, FusedBatchNorm2d) and norm.fuses_relu


def _find_conv_norm_pairs(parent: nn.Module) -> list[tuple[str, str]]:
    """Return the names of adjacent convolutions and norms, such as (conv1, bn1).

    All blocks of this project define modules in the order of use. A ReLU never lies between a
    convolution and its norm.
    """
    children = list(parent.named_children())
    return [
        (conv, norm)
        for (conv, first), (norm, second) in pairwise(children)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.modules.batchnorm._BatchNorm)
    ]

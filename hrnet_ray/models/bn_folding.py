"""A net for judging alone: every BatchNorm folded into the convolution before it."""

import copy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from hrnet_ray.models.fused_batchnorm import FusedBatchNorm2d


@torch.no_grad()
def fold_batchnorm(model: nn.Module, *, bf16: bool = False) -> nn.Module:
    """Copy `model` for evaluation, without its BatchNorms.

    The same function up to the rounding of fp32; it has no statistics left to learn with. A net
    whose convolutions are not each followed by their BatchNorm keeps those that are not. With
    `bf16`, what was folded is rounded once, where autocast would round it in each forward pass:
    to the same heatmaps.
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
    """Names of neighbours (conv1, bn1), in the order in which all our blocks define and use them.

    Blocks name a ReLU between some of their pairs, never between a convolution and its norm.
    """
    children = list(parent.named_children())
    return [
        (conv, norm)
        for (conv, first), (norm, second) in pairwise(children)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.modules.batchnorm._BatchNorm)
    ]

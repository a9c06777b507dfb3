"""BatchNorm, shortcut and ReLU in one go, for steps in bf16 on CPUs.

There, much of a step carries activations from memory to torch's operators and back. A routine in C
(`fused_norm.c`) makes fewer passes over them, and rounds once where the operators round after each.
`docs/performance.md` has the figures.
"""

import ctypes
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from hrnet_ray.models.native_extension import ExtensionUnavailable, build_extension

C_SOURCE_PATH = Path(__file__).with_name("fused_norm.c")
CHANNEL_MULTIPLE = 16
"""Channels come in so many to the routine."""


def apply_norm_add_relu(
    norm: nn.Module, features: Float[Tensor, "B C H W"], shortcut: Tensor | None = None
) -> Float[Tensor, "B C H W"]:
    """`relu(norm(features) + shortcut)`."""
    if isinstance(norm, FusedBatchNorm2d):
        return norm.apply_norm(features, shortcut, relu=True)
    normed = norm(features)
    if shortcut is not None:
        normed.add_(shortcut)  # in place: the tensor has no other user
    return torch.relu_(normed)


def convert_to_fused_batchnorm(model: nn.Module, *, log_message: Callable[[str], None] = print) -> bool:
    """Let the BatchNorms of `model` use `apply_norm_add_relu`; their tensors and names stay.

    A following ReLU in a Sequential is fused, too. Where the C routine cannot be built, one line
    reports it, and the model stays as it is. It is the same function of the same weights; its
    results differ by the rounding of bf16.
    """
    try:
        _load_native_library()
    except ExtensionUnavailable as reason:
        log_message(f"BatchNorm and ReLU one by one, which takes longer: {reason}")
        return False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, FusedBatchNorm2d.from_batchnorm(child))
        if isinstance(parent, nn.Sequential):
            for at, (one, other) in enumerate(pairwise(list(parent)), 1):
                if isinstance(one, FusedBatchNorm2d) and isinstance(other, nn.ReLU):
                    one.fuses_relu = True
                    parent[at] = nn.Identity()
    return True


class FusedBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm that can add a shortcut and do the ReLU on its way."""

    fuses_relu = False
    """Whether it does so when called as a BatchNorm."""

    @classmethod
    def from_batchnorm(cls, norm: nn.BatchNorm2d) -> "FusedBatchNorm2d":
        """The same norm, with the same tensors."""
        fused = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        fused.weight, fused.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            fused.register_buffer(name, buffer)
        return fused.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalise; and ReLU, where one followed."""
        return self.apply_norm(features, None, relu=self.fuses_relu)

    def apply_norm(self, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """By the routine, where it knows how; else by torch's operators."""
        if self.training and _is_supported(features) and (shortcut is None or _is_supported(shortcut)):
            return _FusedNormFunction.apply(features, shortcut, self.weight, self.bias, self, relu)
        normed = super().forward(features)
        if shortcut is not None:
            normed.add_(shortcut)
        return torch.relu_(normed) if relu else normed


def _is_supported(features: Tensor) -> bool:
    """bf16, channels last, in sixteens."""
    return (
        features.dtype == torch.bfloat16
        and features.device.type == "cpu"
        and features.shape[1] % CHANNEL_MULTIPLE == 0
        and features.is_contiguous(memory_format=torch.channels_last)
    )


class _FusedNormFunction(torch.autograd.Function):
    """`relu(norm(features) + shortcut)` by the routine."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        shortcut: Tensor | None,
        weight: Tensor,
        bias: Tensor,
        norm: FusedBatchNorm2d,
        relu: bool,
    ) -> Tensor:
        rows, channels, threads = _get_kernel_sizes(features)
        out = torch.empty_like(features)
        statistics = torch.empty(4, channels)
        _load_native_library().norm_forward(
            features.data_ptr(),
            None if shortcut is None else shortcut.data_ptr(),
            out.data_ptr(),
            *(rows, channels, relu),
            weight.data_ptr(),
            bias.data_ptr(),
            *(norm.eps, norm.momentum),
            norm.running_mean.data_ptr(),  # pyright: ignore[reportOptionalMemberAccess]
            norm.running_var.data_ptr(),  # pyright: ignore[reportOptionalMemberAccess]
            statistics.data_ptr(),
            threads,
        )
        norm.num_batches_tracked += 1  # pyright: ignore[reportOperatorIssue]
        ctx.relu, ctx.added = relu, shortcut is not None
        ctx.save_for_backward(features, out if ctx.added and relu else None, statistics)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        features, out, statistics = ctx.saved_tensors
        rows, channels, threads = _get_kernel_sizes(features)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_features = torch.empty_like(features)
        of_shortcut = torch.empty_like(features) if out is not None else None
        of_weights = torch.empty(4, channels)
        _load_native_library().norm_backward(
            features.data_ptr(),
            None if out is None else out.data_ptr(),
            gradient.data_ptr(),
            of_features.data_ptr(),
            None if of_shortcut is None else of_shortcut.data_ptr(),
            *(rows, channels, ctx.relu),
            statistics.data_ptr(),
            of_weights.data_ptr(),
            threads,
        )
        if ctx.added and out is None:
            of_shortcut = gradient  # without a ReLU all of it comes through
        return of_features, of_shortcut, of_weights[0], of_weights[1], None, None


@cache
def _load_native_library() -> ctypes.CDLL:
    """Raises NoRoutine where it cannot be had."""
    routine = build_extension(C_SOURCE_PATH)
    pointers, sizes, real = [ctypes.c_void_p], [ctypes.c_long] * 2 + [ctypes.c_int], ctypes.c_float
    threads = [ctypes.c_int]
    forward, backward = routine.norm_forward, routine.norm_backward
    forward.argtypes = pointers * 3 + sizes + pointers * 2 + [real] * 2 + pointers * 3 + threads
    backward.argtypes = pointers * 5 + sizes + pointers * 2 + threads
    forward.restype = backward.restype = None
    return routine


def _get_kernel_sizes(features: Tensor) -> tuple[int, int, int]:
    """Rows, channels, and threads to use."""
    batch, channels, height, width = features.shape
    return batch * height * width, channels, torch.get_num_threads()

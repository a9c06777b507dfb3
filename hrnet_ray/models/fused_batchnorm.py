"""BatchNorm, shortcut addition and ReLU fused into one C routine, for bf16 training on CPUs.

Much of a bf16 step on a CPU is memory traffic between torch's operators. The routine
(`fused_norm.c`) makes fewer passes over the activations and rounds once instead of after each
operator. `docs/performance.md` has the figures.
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
"""The routine supports only channel counts that are multiples of this number."""


def apply_norm_add_relu(
    norm: nn.Module, features: Float[Tensor, "B C H W"], shortcut: Tensor | None = None
) -> Float[Tensor, "B C H W"]:
    """Compute `relu(norm(features) + shortcut)`."""
    if isinstance(norm, FusedBatchNorm2d):
        return norm.apply_norm(features, shortcut, relu=True)
    normed = norm(features)
    if shortcut is not None:
        normed.add_(shortcut)  # in place is safe: the tensor is not used elsewhere
    return torch.relu_(normed)


def convert_to_fused_batchnorm(model: nn.Module, *, log_message: Callable[[str], None] = print) -> bool:
    """Replace the BatchNorms of `model` by fused ones; parameters and their names stay.

    In a Sequential, a ReLU after a BatchNorm is fused as well. Outputs differ by bf16 rounding
    only. If the C routine cannot be built, one line is logged, the model stays unchanged, and the
    result is False.
    """
    try:
        _load_native_library()
    except ExtensionUnavailable as reason:
        log_message(f"BatchNorm and ReLU are not fused, so training is slower: {reason}")
        return False
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, FusedBatchNorm2d.from_batchnorm(child))
        if isinstance(parent, nn.Sequential):
            for index, (first, second) in enumerate(pairwise(list(parent)), 1):
                if isinstance(first, FusedBatchNorm2d) and isinstance(second, nn.ReLU):
                    first.fuses_relu = True
                    parent[index] = nn.Identity()
    return True


class FusedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm that also adds a shortcut and applies ReLU."""

    fuses_relu = False
    """Whether `forward` applies ReLU."""

    @classmethod
    def from_batchnorm(cls, norm: nn.BatchNorm2d) -> "FusedBatchNorm2d":
        """Build a fused BatchNorm that shares the tensors of `norm`."""
        fused = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        fused.weight, fused.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            fused.register_buffer(name, buffer)
        return fused.train(norm.training)

    def forward(self, features: Tensor) -> Tensor:
        """Normalize, and apply ReLU if `fuses_relu`."""
        return self.apply_norm(features, None, relu=self.fuses_relu)

    def apply_norm(self, features: Tensor, shortcut: Tensor | None, *, relu: bool) -> Tensor:
        """Normalize, add and apply ReLU by the C routine, or by torch's operators where unsupported."""
        if self.training and _is_supported(features) and (shortcut is None or _is_supported(shortcut)):
            return _FusedNormFunction.apply(features, shortcut, self.weight, self.bias, self, relu)
        normed = super().forward(features)
        if shortcut is not None:
            normed.add_(shortcut)
        return torch.relu_(normed) if relu else normed


def _is_supported(features: Tensor) -> bool:
    """Return whether the routine supports the tensor: CPU, bf16, channels last, C a multiple of 16."""
    return (
        features.dtype == torch.bfloat16
        and features.device.type == "cpu"
        and features.shape[1] % CHANNEL_MULTIPLE == 0
        and features.is_contiguous(memory_format=torch.channels_last)
    )


class _FusedNormFunction(torch.autograd.Function):
    """`relu(norm(features) + shortcut)` by the C routine."""

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
        features_grad = torch.empty_like(features)
        shortcut_grad = torch.empty_like(features) if out is not None else None
        weight_grads = torch.empty(4, channels)
        _load_native_library().norm_backward(
            features.data_ptr(),
            None if out is None else out.data_ptr(),
            gradient.data_ptr(),
            features_grad.data_ptr(),
            None if shortcut_grad is None else shortcut_grad.data_ptr(),
            *(rows, channels, ctx.relu),
            statistics.data_ptr(),
            weight_grads.data_ptr(),
            threads,
        )
        if ctx.added and out is None:
            shortcut_grad = gradient  # without a ReLU, the gradient passes unchanged
        return features_grad, shortcut_grad, weight_grads[0], weight_grads[1], None, None


@cache
def _load_native_library() -> ctypes.CDLL:
    """Compile and load the C routine; raises ExtensionUnavailable if that fails."""
    library = build_extension(C_SOURCE_PATH)
    pointers, sizes, real = [ctypes.c_void_p], [ctypes.c_long] * 2 + [ctypes.c_int], ctypes.c_float
    threads = [ctypes.c_int]
    forward, backward = library.norm_forward, library.norm_backward
    forward.argtypes = pointers * 3 + sizes + pointers * 2 + [real] * 2 + pointers * 3 + threads
    backward.argtypes = pointers * 5 + sizes + pointers * 2 + threads
    forward.restype = backward.restype = None
    return library


def _get_kernel_sizes(features: Tensor) -> tuple[int, int, int]:
    """Return the numbers of rows, channels and threads."""
    batch, channels, height, width = features.shape
    return batch * height * width, channels, torch.get_num_threads()

"""BatchNorm over the crops of all workers: for shares too small to know their own statistics."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm of `model` see all workers' crops; names and weights stay.

    On GPUs torch's own SyncBatchNorm, which knows no CPU; there this file's.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, CpuSyncBatchNorm2d.from_batchnorm(child))
    return model


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """A BatchNorm whose mean and variance are those of all workers' crops, however many each has.

    The workers exchange one vector forwards and one backwards.
    """

    @classmethod
    def from_batchnorm(cls, norm: nn.BatchNorm2d) -> "CpuSyncBatchNorm2d":
        """The same norm, with the same tensors."""
        shared = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        shared.weight, shared.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            shared.register_buffer(name, buffer)
        return shared

    def forward(self, features: Tensor) -> Tensor:
        """Normalise; alone, or when judging, as any BatchNorm."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(features)
        values = features.float()
        count = values.new_full((1,), values[:, 0].numel())
        sums = [values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count]
        summed = all_reduce(torch.cat(sums))
        total, squares, everybody = summed.split([self.num_features, self.num_features, 1])
        mean = total / everybody
        variance = (squares / everybody - mean.square()).clamp_min(0)
        self._update_running_stats(mean.detach(), variance.detach(), everybody.detach())
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        return (values * scale[:, None, None] + shift[:, None, None]).to(features.dtype)

    @torch.no_grad()
    def _update_running_stats(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean, self.momentum)
        unbiased = variance * (count / (count - 1).clamp_min(1))
        self.running_var.lerp_(unbiased, self.momentum)
        self.num_batches_tracked += 1

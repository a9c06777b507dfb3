"""BatchNorm over the crops of all ranks, for batches too small per rank."""

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce


def convert_sync_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    """Replace each BatchNorm by a synchronized one in place; names and weights do not change.

    torch's SyncBatchNorm has no CPU implementation; `CpuSyncBatchNorm2d` replaces it there.
    """
    if device.type == "cuda":
        return nn.SyncBatchNorm.convert_sync_batchnorm(model)
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, name, CpuSyncBatchNorm2d.from_batchnorm(child))
    return model


class CpuSyncBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm with the mean and variance of all ranks' crops, which may differ in number.

    The ranks exchange one vector in the forward and one in the backward pass.
    """

    @classmethod
    def from_batchnorm(cls, norm: nn.BatchNorm2d) -> "CpuSyncBatchNorm2d":
        """Build a synchronized norm that shares the tensors of `norm`."""
        synced = cls(norm.num_features, eps=norm.eps, momentum=norm.momentum)
        synced.weight, synced.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            synced.register_buffer(name, buffer)
        return synced

    def forward(self, features: Tensor) -> Tensor:
        """Normalize; without other ranks, or in eval mode, like a plain BatchNorm."""
        if not (self.training and distributed.is_initialized()):
            return super().forward(features)
        values = features.float()
        count = values.new_full((1,), values[:, 0].numel())
        sums = [values.sum((0, 2, 3)), values.square().sum((0, 2, 3)), count]
        summed = all_reduce(torch.cat(sums))
        total, squares, total_count = summed.split([self.num_features, self.num_features, 1])
        mean = total / total_count
        variance = (squares / total_count - mean.square()).clamp_min(0)
        self._update_running_stats(mean.detach(), variance.detach(), total_count.detach())
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

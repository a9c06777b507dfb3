"""NaN and Inf handling in training steps.

DDP averages gradients, so a NaN on one rank reaches all ranks, and every rank skips the same step
without extra communication. Only the occasional poll of skipped steps waits for a GPU.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hrnet_ray.training.ema import ModelEma
from hrnet_ray.utils.tensors import iter_tensors

MAX_CONSECUTIVE_SKIPS = 3
"""Consecutive skipped steps that a training tolerates: more are not the fault of one batch."""
MAX_SKIPPED_FRACTION = 0.01
"""Fraction of an epoch's steps that may be skipped; `MAX_CONSECUTIVE_SKIPS` always may."""
POLL_INTERVAL_STEPS = 64
"""Steps between two polls on a GPU, where a poll is a host sync. A CPU is polled every step."""


class DivergenceDetected(Exception):
    """Too many steps of an epoch are NaN or Inf. Every rank raises it after the same step."""

    def __init__(self, reason: str, *, skipped_steps: list[int], local_nonfinite_steps: list[int]) -> None:
        super().__init__(reason, skipped_steps, local_nonfinite_steps)
        self.reason = reason
        self.skipped_steps = skipped_steps
        """The latest consecutive skipped steps, as indices from 0 in the epoch."""
        self.local_nonfinite_steps = local_nonfinite_steps
        """Those among them in which this rank's own loss was NaN or Inf."""


class NonFiniteStepGuard:
    """Takes the optimizer steps of one epoch, except those with a NaN or Inf gradient.

    A skipped step changes neither weights nor optimizer state nor BatchNorm statistics.
    `num_steps` is the number of steps of the epoch, if known.
    """

    def __init__(self, model: nn.Module, *, num_steps: int = 0) -> None:
        self._max_skipped = max(MAX_CONSECUTIVE_SKIPS, int(MAX_SKIPPED_FRACTION * num_steps))
        self._parameters = list(model.parameters())
        self._buffer_snapshot = BufferSnapshot(model)
        self._losses: list[Tensor] = []
        self._skipped: list[Tensor] = []
        # Per step: whether it was skipped, and whether this rank's own loss was NaN or Inf.
        self._polled_steps: list[tuple[bool, bool]] = []

    def step_if_finite(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Float[Tensor, ""],
        *,
        max_grad_norm: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Take the step, or skip it if the gradient is NaN or Inf; returns 1 if skipped, else 0."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if max_grad_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, max_grad_norm, norm)
        skipped = 1 - norm.isfinite().float()
        _step_unless_skipped(skipped, optimizer)
        self._buffer_snapshot.commit_or_restore(skipped)
        self._losses.append(loss)
        self._skipped.append(skipped)
        return skipped

    def poll_skipped_steps(self) -> None:
        """Check, from time to time, which steps were skipped.

        Raises:
            DivergenceDetected: too many were.
        """
        num_unpolled = len(self._skipped) - len(self._polled_steps)
        if num_unpolled and (num_unpolled >= POLL_INTERVAL_STEPS or self._skipped[-1].device.type == "cpu"):
            self._fetch_step_flags(num_unpolled)

    def finish_epoch(self) -> Float[Tensor, ""]:
        """Return the mean loss of the steps that were taken, on the device.

        Raises:
            DivergenceDetected: too many steps, or all, were skipped.
        """
        num_unpolled = len(self._skipped) - len(self._polled_steps)
        if num_unpolled:
            self._fetch_step_flags(num_unpolled)
        skipped_steps = self.list_skipped_steps()
        if skipped_steps and len(skipped_steps) == len(self._polled_steps):
            raise self._make_divergence_error("no step of the epoch had a finite gradient")
        losses, skipped = torch.stack(self._losses), torch.stack(self._skipped)
        return torch.where(skipped > 0, 0, losses).sum() / (1 - skipped).sum()

    def mean_loss(self) -> float:
        """Mean loss of the steps taken so far; NaN before the first. It waits for the device."""
        if not self._losses:
            return float("nan")
        losses, skipped = torch.stack(self._losses), torch.stack(self._skipped)
        return (torch.where(skipped > 0, 0, losses).sum() / (1 - skipped).sum()).item()

    def get_state(self) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """Return the loss of each step, and 1 where it was skipped; for `load_state`."""
        return torch.stack(self._losses).cpu(), torch.stack(self._skipped).cpu()

    def load_state(self, losses: Float[Tensor, " S"], skipped: Float[Tensor, " S"]) -> None:
        """Restore the steps from before an interruption of the epoch."""
        device = self._parameters[0].device
        self._losses, self._skipped = list(losses.to(device)), list(skipped.to(device))
        if self._skipped:
            self._fetch_step_flags(len(self._skipped))

    def list_skipped_steps(self) -> list[int]:
        """Return the polled steps that were skipped, as indices from 0."""
        return [step for step, (skipped, _) in enumerate(self._polled_steps) if skipped]

    def _fetch_step_flags(self, num_unpolled: int) -> None:
        skipped = torch.stack(self._skipped[-num_unpolled:]) > 0
        own_nonfinite = ~torch.stack(self._losses[-num_unpolled:]).isfinite()
        for flags in torch.stack([skipped, own_nonfinite], dim=1).tolist():
            self._polled_steps.append(tuple(flags))
            if len(self._find_trailing_skips()) > MAX_CONSECUTIVE_SKIPS:
                raise self._make_divergence_error(f"{MAX_CONSECUTIVE_SKIPS + 1} steps in a row had no finite gradient")
        num_skipped = len(self.list_skipped_steps())
        if num_skipped > self._max_skipped:
            raise self._make_divergence_error(f"{num_skipped} steps of the epoch had no finite gradient")

    def _make_divergence_error(self, reason: str) -> DivergenceDetected:
        steps = self._find_trailing_skips() or self.list_skipped_steps()[-1:]
        return DivergenceDetected(
            reason,
            skipped_steps=steps,
            local_nonfinite_steps=[step for step in steps if self._polled_steps[step][1]],
        )

    def _find_trailing_skips(self) -> list[int]:
        """Return the skipped steps at the end, without a taken step after them."""
        trailing = []
        for step in reversed(range(len(self._polled_steps))):
            if not self._polled_steps[step][0]:
                break
            trailing.append(step)
        return trailing[::-1]


class BufferSnapshot:
    """A model's buffers (of BatchNorm) after the last step that was taken.

    A forward pass changes them before its gradient is known to be finite. One flat copy per dtype
    takes a few kernels instead of hundreds of small ones.
    """

    def __init__(self, model: nn.Module) -> None:
        live: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            live.setdefault(buffer.dtype, []).append(buffer.view(-1))
        self._buffers_by_dtype = []
        for parts in live.values():
            committed, current = torch.cat(parts), torch.cat(parts)
            self._buffers_by_dtype.append((parts, committed, current, committed.split([len(part) for part in parts])))

    @torch.no_grad()
    def commit_or_restore(self, skipped: Float[Tensor, ""]) -> None:
        """After a step, commit the current buffers; if `skipped` is 1, restore the last ones."""
        for live, committed, current, committed_parts in self._buffers_by_dtype:
            torch.cat(live, out=current)
            committed.copy_(torch.where(skipped > 0, committed, current))
            torch._foreach_copy_(live, committed_parts)  # pyright: ignore[reportPrivateImportUsage]


def make_nan_propagating_grad(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """Return the gradient for `backward`: 1, or NaN if the loss is NaN or Inf.

    An overflowed loss then always yields a NaN gradient, which DDP spreads to all ranks.
    """
    return loss.detach() * 0 + 1


def all_finite(model: nn.Module, optimizer: torch.optim.Optimizer, ema: ModelEma | None = None) -> bool:
    """Whether everything that a checkpoint would hold is finite."""
    return all(
        bool(tensor.isfinite().all())
        for state in (
            model.state_dict(),
            optimizer.state_dict()["state"],
            ema.averaged_weights if ema else {},
        )
        for tensor in iter_tensors(state)
    )


def scale_lr_schedule(scheduler: torch.optim.lr_scheduler.LRScheduler, factor: float) -> None:
    """Multiply the learning rates of a schedule, from its current step on."""
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]
    groups = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    for group, base, compute_factor in groups:
        group["lr"] = base * compute_factor(scheduler.last_epoch)


def _step_unless_skipped(skipped: Float[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
    """Step if `skipped` is 0; fused optimizers read it on the device, as with GradScaler."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
    elif not skipped.item():
        optimizer.step()

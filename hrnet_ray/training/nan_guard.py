"""What keeps a training alive when a loss or a gradient is no number.

DDP gives every worker the mean of all gradients, so one worker's NaN is everybody's: without a word
more they all find the same, and leave out the same step. Nothing here waits for a GPU but the look
back at what was left out, now and then.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hrnet_ray.training.ema import ModelEma
from hrnet_ray.utils.tensors import iter_tensors

MAX_CONSECUTIVE_SKIPS = 3
"""Skipped steps in a row that a training gets over: more are no accident of a batch."""
MAX_SKIPPED_FRACTION = 0.01
"""Of an epoch's steps that may be skipped, and `IN_A_ROW` always: more would be another epoch."""
POLL_INTERVAL_STEPS = 64
"""Steps: a look waits for a GPU to catch up. On a CPU it costs nothing, and every step is one."""


class DivergenceDetected(Exception):
    """Too much of an epoch is no number. Every worker raises it, and after the same step."""

    def __init__(
        self, reason: str, *, skipped_steps: list[int], local_nonfinite_steps: list[int]
    ) -> None:
        super().__init__(reason, skipped_steps, local_nonfinite_steps)
        self.reason = reason
        self.skipped_steps = skipped_steps
        """The steps that were skipped last, one after the other, counted from 0 in the epoch."""
        self.local_nonfinite_steps = local_nonfinite_steps
        """Those of them in which this very worker's loss was no number."""


class NonFiniteStepGuard:
    """Takes the steps of one epoch, and leaves out those that would spoil the model.

    A step that is left out changes neither weights nor the optimizer's state nor BatchNorm's
    statistics. `steps` is how many the epoch has, where that is known.
    """

    def __init__(self, model: nn.Module, *, num_steps: int = 0) -> None:
        self._max_skipped = max(MAX_CONSECUTIVE_SKIPS, int(MAX_SKIPPED_FRACTION * num_steps))
        self._parameters = list(model.parameters())
        self._buffer_snapshot = BufferSnapshot(model)
        self._losses: list[Tensor] = []
        self._skipped: list[Tensor] = []
        self._polled_steps: list[
            tuple[bool, bool]
        ] = []  # step by step: left out, the own loss no number

    def step_if_finite(
        self,
        optimizer: torch.optim.Optimizer,
        loss: Float[Tensor, ""],
        *,
        max_grad_norm: float = 0.0,
    ) -> Float[Tensor, ""]:
        """Take the step unless the gradient is no number: then 1 is returned, else 0."""
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if max_grad_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, max_grad_norm, norm)
        bad = 1 - norm.isfinite().float()
        _step_unless_skipped(bad, optimizer)
        self._buffer_snapshot.commit_or_restore(bad)
        self._losses.append(loss)
        self._skipped.append(bad)
        return bad

    def poll_skipped_steps(self) -> None:
        """See now and then what was left out.

        Raises:
            Diverging: it is more than an accident.
        """
        unseen = len(self._skipped) - len(self._polled_steps)
        if unseen and (unseen >= POLL_INTERVAL_STEPS or self._skipped[-1].device.type == "cpu"):
            self._fetch_step_flags(unseen)

    def finish_epoch(self) -> Float[Tensor, ""]:
        """The mean loss of the steps that were taken, on the device.

        Raises:
            Diverging: too many, or all.
        """
        unseen = len(self._skipped) - len(self._polled_steps)
        if unseen:
            self._fetch_step_flags(unseen)
        skipped = self.list_skipped_steps()
        if skipped and len(skipped) == len(self._polled_steps):
            raise self._make_divergence_error("no step of the epoch had a finite gradient")
        losses, bad = torch.stack(self._losses), torch.stack(self._skipped)
        return torch.where(bad > 0, 0, losses).sum() / (1 - bad).sum()

    def get_state(self) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """Of each step: the loss, and 1 where it was left out. For `recall`."""
        return torch.stack(self._losses).cpu(), torch.stack(self._skipped).cpu()

    def load_state(self, losses: Float[Tensor, " S"], skipped: Float[Tensor, " S"]) -> None:
        """Begin with the steps that were taken before the epoch was interrupted."""
        device = self._parameters[0].device
        self._losses, self._skipped = list(losses.to(device)), list(skipped.to(device))
        if self._skipped:
            self._fetch_step_flags(len(self._skipped))

    def list_skipped_steps(self) -> list[int]:
        """The steps that are known to have been left out, counted from 0."""
        return [step for step, (bad, _) in enumerate(self._polled_steps) if bad]

    def _fetch_step_flags(self, num_unpolled: int) -> None:
        bad = torch.stack(self._skipped[-num_unpolled:])
        wrong = ~torch.stack(self._losses[-num_unpolled:]).isfinite()
        for left_out, own in torch.stack([bad > 0, wrong], dim=1).tolist():
            self._polled_steps.append((left_out, own))
            if len(self._find_trailing_skips()) > MAX_CONSECUTIVE_SKIPS:
                raise self._make_divergence_error(
                    f"{MAX_CONSECUTIVE_SKIPS + 1} steps in a row had no finite gradient"
                )
        skipped = len(self.list_skipped_steps())
        if skipped > self._max_skipped:
            raise self._make_divergence_error(
                f"{skipped} steps of the epoch had no finite gradient"
            )

    def _make_divergence_error(self, reason: str) -> DivergenceDetected:
        steps = self._find_trailing_skips() or self.list_skipped_steps()[-1:]
        return DivergenceDetected(
            reason,
            skipped_steps=steps,
            local_nonfinite_steps=[step for step in steps if self._polled_steps[step][1]],
        )

    def _find_trailing_skips(self) -> list[int]:
        """The steps that were left out last, without one taken since."""
        row = []
        for step in reversed(range(len(self._polled_steps))):
            if not self._polled_steps[step][0]:
                break
            row.append(step)
        return row[::-1]


class BufferSnapshot:
    """A model's buffers (BatchNorm's), as they were after the last step that was taken.

    A forward pass changes them before anybody knows whether its gradient is a number. One copy of
    all, kind by kind, is a matter of some kernels, where hundreds of small ones would be felt.
    """

    def __init__(self, model: nn.Module) -> None:
        live: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            live.setdefault(buffer.dtype, []).append(buffer.view(-1))
        self._buffers_by_dtype = []
        for parts in live.values():
            good, now = torch.cat(parts), torch.cat(parts)
            self._buffers_by_dtype.append(
                (parts, good, now, good.split([len(part) for part in parts]))
            )

    @torch.no_grad()
    def commit_or_restore(self, skipped: Float[Tensor, ""]) -> None:
        """After a step: keep the buffers as they are now; where `bad` is 1, put them back."""
        for live, good, now, parts_of_good in self._buffers_by_dtype:
            torch.cat(live, out=now)
            good.copy_(torch.where(skipped > 0, good, now))
            torch._foreach_copy_(live, parts_of_good)  # pyright: ignore[reportPrivateImportUsage]


def make_nan_propagating_grad(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """What to go backwards with: 1, and NaN where the loss is no number.

    So a loss that overflowed spoils its gradient for sure, and DDP tells everybody.
    """
    return loss.detach() * 0 + 1


def all_finite(
    model: nn.Module, optimizer: torch.optim.Optimizer, ema: ModelEma | None = None
) -> bool:
    """Whether everything that a checkpoint would hold is a number."""
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
    """Multiply a fresh schedule's rates, from the step at which it is."""
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]
    parts = zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    )
    for group, base, shape in parts:
        group["lr"] = base * shape(scheduler.last_epoch)


def _step_unless_skipped(skipped: Float[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
    """Step where `bad` is 0. Fused optimizers look at it on the device, as GradScaler has it."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = skipped  # pyright: ignore[reportAttributeAccessIssue]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
    elif not skipped.item():
        optimizer.step()

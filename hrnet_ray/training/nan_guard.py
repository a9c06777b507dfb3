"""What keeps a training alive when a loss or a gradient is no number.

DDP gives every worker the mean of all gradients, so one worker's NaN is everybody's: without a word
more they all find the same, and leave out the same step. Nothing here waits for a GPU but the look
back at what was left out, now and then.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hrnet_ray.training.ema import Average
from hrnet_ray.utils.tensors import tensors_in

IN_A_ROW = 3
"""Skipped steps in a row that a training gets over: more are no accident of a batch."""
SHARE = 0.01
"""Of an epoch's steps that may be skipped, and `IN_A_ROW` always: more would be another epoch."""
LOOK_EVERY = 64
"""Steps: a look waits for a GPU to catch up. On a CPU it costs nothing, and every step is one."""


class Diverging(Exception):
    """Too much of an epoch is no number. Every worker raises it, and after the same step."""

    def __init__(self, what: str, *, steps: list[int], mine: list[int]) -> None:
        super().__init__(what, steps, mine)
        self.what = what
        self.steps = steps
        """The steps that were skipped last, one after the other, counted from 0 in the epoch."""
        self.mine = mine
        """Those of them in which this very worker's loss was no number."""


class Guard:
    """Takes the steps of one epoch, and leaves out those that would spoil the model.

    A step that is left out changes neither weights nor the optimizer's state nor BatchNorm's
    statistics. `steps` is how many the epoch has, where that is known.
    """

    def __init__(self, model: nn.Module, *, steps: int = 0) -> None:
        self._most = max(IN_A_ROW, int(SHARE * steps))
        self._parameters = list(model.parameters())
        self._statistics = Statistics(model)
        self._losses: list[Tensor] = []
        self._bad: list[Tensor] = []
        self._seen: list[tuple[bool, bool]] = []  # step by step: left out, the own loss no number

    def step(
        self, optimizer: torch.optim.Optimizer, loss: Float[Tensor, ""], *, clip_norm: float = 0.0
    ) -> Float[Tensor, ""]:
        """Take the step unless the gradient is no number: then 1 is returned, else 0."""
        gradients = [one.grad for one in self._parameters if one.grad is not None]
        norms = torch._foreach_norm(gradients)  # pyright: ignore[reportPrivateImportUsage]
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if clip_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, clip_norm, norm)
        bad = 1 - norm.isfinite().float()
        _step_unless(bad, optimizer)
        self._statistics.settle(bad)
        self._losses.append(loss)
        self._bad.append(bad)
        return bad

    def look(self) -> None:
        """See now and then what was left out.

        Raises:
            Diverging: it is more than an accident.
        """
        unseen = len(self._bad) - len(self._seen)
        if unseen and (unseen >= LOOK_EVERY or self._bad[-1].device.type == "cpu"):
            self._look(unseen)

    def end(self) -> Float[Tensor, ""]:
        """The mean loss of the steps that were taken, on the device.

        Raises:
            Diverging: too many, or all.
        """
        unseen = len(self._bad) - len(self._seen)
        if unseen:
            self._look(unseen)
        skipped = self.skipped()
        if skipped and len(skipped) == len(self._seen):
            raise self._diverging("no step of the epoch had a finite gradient")
        losses, bad = torch.stack(self._losses), torch.stack(self._bad)
        return torch.where(bad > 0, 0, losses).sum() / (1 - bad).sum()

    def so_far(self) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
        """Of each step: the loss, and 1 where it was left out. For `recall`."""
        return torch.stack(self._losses).cpu(), torch.stack(self._bad).cpu()

    def recall(self, losses: Float[Tensor, " S"], bad: Float[Tensor, " S"]) -> None:
        """Begin with the steps that were taken before the epoch was interrupted."""
        device = self._parameters[0].device
        self._losses, self._bad = list(losses.to(device)), list(bad.to(device))
        if self._bad:
            self._look(len(self._bad))

    def skipped(self) -> list[int]:
        """The steps that are known to have been left out, counted from 0."""
        return [step for step, (bad, _) in enumerate(self._seen) if bad]

    def _look(self, unseen: int) -> None:
        bad = torch.stack(self._bad[-unseen:])
        wrong = ~torch.stack(self._losses[-unseen:]).isfinite()
        for left_out, own in torch.stack([bad > 0, wrong], dim=1).tolist():
            self._seen.append((left_out, own))
            if len(self._row()) > IN_A_ROW:
                raise self._diverging(f"{IN_A_ROW + 1} steps in a row had no finite gradient")
        skipped = len(self.skipped())
        if skipped > self._most:
            raise self._diverging(f"{skipped} steps of the epoch had no finite gradient")

    def _diverging(self, what: str) -> Diverging:
        steps = self._row() or self.skipped()[-1:]
        return Diverging(what, steps=steps, mine=[step for step in steps if self._seen[step][1]])

    def _row(self) -> list[int]:
        """The steps that were left out last, without one taken since."""
        row = []
        for step in reversed(range(len(self._seen))):
            if not self._seen[step][0]:
                break
            row.append(step)
        return row[::-1]


class Statistics:
    """A model's buffers (BatchNorm's), as they were after the last step that was taken.

    A forward pass changes them before anybody knows whether its gradient is a number. One copy of
    all, kind by kind, is a matter of some kernels, where hundreds of small ones would be felt.
    """

    def __init__(self, model: nn.Module) -> None:
        live: dict[torch.dtype, list[Tensor]] = {}
        for buffer in model.buffers():
            live.setdefault(buffer.dtype, []).append(buffer.view(-1))
        self._parts = []
        for parts in live.values():
            good, now = torch.cat(parts), torch.cat(parts)
            self._parts.append((parts, good, now, good.split([len(part) for part in parts])))

    @torch.no_grad()
    def settle(self, bad: Float[Tensor, ""]) -> None:
        """After a step: keep the buffers as they are now; where `bad` is 1, put them back."""
        for live, good, now, parts_of_good in self._parts:
            torch.cat(live, out=now)
            good.copy_(torch.where(bad > 0, good, now))
            torch._foreach_copy_(live, parts_of_good)  # pyright: ignore[reportPrivateImportUsage]


def number_or_nan(loss: Float[Tensor, ""]) -> Float[Tensor, ""]:
    """What to go backwards with: 1, and NaN where the loss is no number.

    So a loss that overflowed spoils its gradient for sure, and DDP tells everybody.
    """
    return loss.detach() * 0 + 1


def all_finite(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: Average | None = None
) -> bool:
    """Whether everything that a checkpoint would hold is a number."""
    return all(
        bool(tensor.isfinite().all())
        for state in (
            model.state_dict(),
            optimizer.state_dict()["state"],
            average.held if average else {},
        )
        for tensor in tensors_in(state)
    )


def scale_rate(scheduler: torch.optim.lr_scheduler.LRScheduler, factor: float) -> None:
    """Multiply a fresh schedule's rates, from the step at which it is."""
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    scheduler.base_lrs = [base * factor for base in scheduler.base_lrs]
    parts = zip(
        scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True
    )
    for group, base, shape in parts:
        group["lr"] = base * shape(scheduler.last_epoch)


def _step_unless(bad: Float[Tensor, ""], optimizer: torch.optim.Optimizer) -> None:
    """Step where `bad` is 0. Fused optimizers look at it on the device, as GradScaler has it."""
    if getattr(optimizer, "_step_supports_amp_scaling", False):
        optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue]
        try:
            optimizer.step()
        finally:
            del optimizer.found_inf  # pyright: ignore[reportAttributeAccessIssue]
    elif not bad.item():
        optimizer.step()

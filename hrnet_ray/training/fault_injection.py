"""Fault injection for tests and for demonstrations of recovery.

    export HRNET_RAY_ALLOW_FAULTS=1 HRNET_RAY_FAULTS="kill:rank=1,epoch=3,step=10;nan:step=40"

`kill` (SIGKILL), `hang` (SIGSTOP) and `nan` (a batch of NaN) hit one worker: `rank` (default 0), in
`epoch` (default any), at `step` (default any). All three are indices from 0, as in the training
loop. `at` selects another point than a training step: `validation` (`step` is its batch), `report`
(on rank 0 with half a checkpoint written) or `end` (after the epoch is reported). Each fault occurs
once per run, restarts included, and never two at once: the same fault given twice occurs twice.
`debug/faults/` in the run folder records them.
"""

import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.errors import UsageError

FAULTS_ENV_VAR, ALLOW_FAULTS_ENV_VAR = "HRNET_RAY_FAULTS", "HRNET_RAY_ALLOW_FAULTS"
SIGNAL_BY_KIND = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
KINDS_BY_POINT = {
    "step": (*SIGNAL_BY_KIND, "nan"),
    **dict.fromkeys(("validation", "report", "end"), SIGNAL_BY_KIND),
}
FIRST_STEPS_FILE = "began.jsonl"
"""Log of the time at which each worker process finished its first step."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """One fault: its kind, rank and time."""

    kind: str
    rank: int = 0
    epoch: int | None = None
    step: int | None = None
    point: str = "step"

    def should_inject(self, rank: int, point: str, epoch: int, step: int | None) -> bool:
        """Whether the fault is due here."""
        matches = (self.rank, self.point) == (rank, point) and self.epoch in (None, epoch)
        return matches and self.step in (None, step)


def parse_faults(text: str) -> list[InjectedFault]:
    """Parse a list of faults; see the module docstring.

    Raises:
        UsageError: a fault is malformed.
    """
    return [_parse_fault(part.strip()) for part in text.split(";") if part.strip()]


def get_fault_env_vars() -> dict[str, str]:
    """Return the environment variables for workers; empty unless faults are set and allowed.

    Raises:
        UsageError: a fault is malformed.
    """
    text = os.environ.get(FAULTS_ENV_VAR, "")
    if not text:
        return {}
    if os.environ.get(ALLOW_FAULTS_ENV_VAR) != "1":
        print(f"{FAULTS_ENV_VAR} is ignored because {ALLOW_FAULTS_ENV_VAR} is not 1")
        return {}
    parse_faults(text)
    return {FAULTS_ENV_VAR: text, ALLOW_FAULTS_ENV_VAR: "1"}


class FaultInjector:
    """Injects the faults of one worker of a run; without faults it does nothing."""

    def __init__(self, run_folder: Path, *, rank: int) -> None:
        text = os.environ.get(FAULTS_ENV_VAR, "") if os.environ.get(ALLOW_FAULTS_ENV_VAR) == "1" else ""
        self._rank_faults = [(index, fault) for index, fault in enumerate(parse_faults(text)) if fault.rank == rank]
        self._enabled = self._awaiting_first_step = bool(text)
        self._rank = rank
        self._folder = run_folder / "debug" / "faults"

    def maybe_inject(self, point: str, *, epoch: int, step: int | None = None) -> bool:
        """Inject the faults that are due; True if the batch has to become NaN."""
        for number, fault in self._rank_faults:
            if not fault.should_inject(self._rank, point, epoch, step):
                continue
            if not self._try_mark_injected(f"{number:02d}-{fault.kind}", epoch=epoch, step=step):
                continue
            if fault.kind == "nan":
                return True
            os.kill(os.getpid(), SIGNAL_BY_KIND[fault.kind])
        return False

    def wrap_train_batches(
        self, batches: Iterator[TrainBatch], *, epoch: int, first_step: int = 0
    ) -> Iterator[TrainBatch]:
        """Return the batches from `first_step` on, with faults injected."""
        return self._iter_train_batches(batches, epoch, first_step) if self._enabled else batches

    def wrap_val_batches(self, batches: Iterator[T], *, epoch: int) -> Iterator[T]:
        """Return the validation batches, with faults injected."""
        return self._iter_val_batches(batches, epoch) if self._rank_faults else batches

    def _iter_train_batches(self, batches: Iterator[TrainBatch], epoch: int, first_step: int) -> Iterator[TrainBatch]:
        for step, batch in enumerate(batches, start=first_step):
            make_nan = self.maybe_inject("step", epoch=epoch, step=step)
            crops = torch.full_like(batch.crops, torch.nan) if make_nan else batch.crops
            yield replace(batch, crops=crops)
            if self._awaiting_first_step:  # the first step has finished
                self._awaiting_first_step = False
                self._record_first_step(epoch, step)

    def _iter_val_batches(self, batches: Iterator[T], epoch: int) -> Iterator[T]:
        for step, batch in enumerate(batches):
            self.maybe_inject("validation", epoch=epoch, step=step)
            yield batch

    def _try_mark_injected(self, mark_name: str, *, epoch: int, step: int | None) -> bool:
        """Record a fault; False if it was recorded before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self._folder / f"{mark_name}.json").open("x", encoding="utf-8") as mark:
                json.dump(self._build_mark(epoch, step), mark)
        except FileExistsError:
            return False
        return True

    def _record_first_step(self, epoch: int, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / FIRST_STEPS_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._build_mark(epoch, step)) + "\n")

    def _build_mark(self, epoch: int, step: int | None) -> dict[str, float | int | None]:
        return {"at_s": time.time(), "rank": self._rank, "epoch": epoch, "step": step}


def _parse_fault(fault_spec: str) -> InjectedFault:
    kind, _, rest = fault_spec.partition(":")
    pairs = (pair.partition("=") for pair in rest.split(",") if pair)
    fields = {name: value for name, _, value in pairs}
    point = fields.pop("at", "step")
    has_steps = point in ("step", "validation")
    allowed = {"rank", "epoch", "step"} if has_steps else {"rank", "epoch"}
    if kind not in KINDS_BY_POINT.get(point, ()) or not fields.keys() <= allowed:
        raise _make_invalid_fault_error(fault_spec)
    try:
        return InjectedFault(kind=kind, point=point, **{name: int(number) for name, number in fields.items()})
    except ValueError:
        raise _make_invalid_fault_error(fault_spec) from None


def _make_invalid_fault_error(fault_spec: str) -> UsageError:
    return UsageError(
        f"invalid fault {fault_spec!r}",
        f"environment variable {FAULTS_ENV_VAR}",
        "use a form such as kill:rank=1,epoch=3,step=10, hang:rank=0,at=validation or nan:step=40",
    )

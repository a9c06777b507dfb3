"""Faults on purpose, for tests and for whoever wants to see a run survive.

    export HRNET_RAY_ALLOW_FAULTS=1 HRNET_RAY_FAULTS="kill:rank=1,epoch=3,step=10;nan:step=40"

`kill` (SIGKILL), `hang` (SIGSTOP) and `nan` (a batch of NaN) strike one worker, `rank` (0 unless it
is given), in `epoch` (any) at `step` of it (any); all are counted from 0. `at` says where else
than in training: `validation` (`step` is its batch), `report` (rank 0: with half a checkpoint
written) or `end` (after the epoch is reported). Each strikes once in a run, restarts included, and
never two at the same moment: the same fault given twice strikes on two occasions. What struck
when is told by `debug/faults/` of the run's folder.
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
"""In the folder of the marks: when each worker's process had done its first step."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class InjectedFault:
    """What strikes, whom, and when."""

    kind: str
    rank: int = 0
    epoch: int | None = None
    step: int | None = None
    point: str = "step"

    def should_inject(self, rank: int, point: str, epoch: int, step: int | None) -> bool:
        """Whether this is its moment."""
        here = (self.rank, self.point) == (rank, point) and self.epoch in (None, epoch)
        return here and self.step in (None, step)


def parse_faults(text: str) -> list[InjectedFault]:
    """Read the notation above.

    Raises:
        UsageError: it says something else.
    """
    return [_parse_fault(part.strip()) for part in text.split(";") if part.strip()]


def get_fault_env_vars() -> dict[str, str]:
    """What the workers are told of it; nothing, as a rule.

    Raises:
        UsageError: it cannot be understood.
    """
    text = os.environ.get(FAULTS_ENV_VAR, "")
    if not text:
        return {}
    if os.environ.get(ALLOW_FAULTS_ENV_VAR) != "1":
        print(f"{FAULTS_ENV_VAR} is set but does nothing, as {ALLOW_FAULTS_ENV_VAR} is not 1")
        return {}
    parse_faults(text)
    return {FAULTS_ENV_VAR: text, ALLOW_FAULTS_ENV_VAR: "1"}


class FaultInjector:
    """Those that wait for one worker of a run. Where there are none, nothing is done."""

    def __init__(self, run_folder: Path, *, rank: int) -> None:
        text = (
            os.environ.get(FAULTS_ENV_VAR, "")
            if os.environ.get(ALLOW_FAULTS_ENV_VAR) == "1"
            else ""
        )
        self._rank_faults = [
            (at, one) for at, one in enumerate(parse_faults(text)) if one.rank == rank
        ]
        self._enabled = self._awaiting_first_step = bool(text)
        self._rank = rank
        self._folder = run_folder / "debug" / "faults"

    def maybe_inject(self, point: str, *, epoch: int, step: int | None = None) -> bool:
        """Be struck here if it is time; True when it is by a batch of NaN."""
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
        """The same batches, from the step `begin` on; some of them spoilt."""
        return self._iter_train_batches(batches, epoch, first_step) if self._enabled else batches

    def wrap_val_batches(self, batches: Iterator[T], *, epoch: int) -> Iterator[T]:
        """The same batches; to some of them it does not come."""
        return self._iter_val_batches(batches, epoch) if self._rank_faults else batches

    def _iter_train_batches(
        self, batches: Iterator[TrainBatch], epoch: int, first_step: int
    ) -> Iterator[TrainBatch]:
        for step, batch in enumerate(batches, start=first_step):
            spoilt = self.maybe_inject("step", epoch=epoch, step=step)
            crops = torch.full_like(batch.crops, torch.nan) if spoilt else batch.crops
            yield replace(batch, crops=crops)
            if self._awaiting_first_step:  # its first step is done
                self._awaiting_first_step = False
                self._record_first_step(epoch, step)

    def _iter_val_batches(self, batches: Iterator[T], epoch: int) -> Iterator[T]:
        for step, batch in enumerate(batches):
            self.maybe_inject("validation", epoch=epoch, step=step)
            yield batch

    def _try_mark_injected(self, mark_name: str, *, epoch: int, step: int | None) -> bool:
        """Leave the mark of a fault; False when it is there already."""
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
    words = (word.partition("=") for word in rest.split(",") if word)
    given = {name: value for name, _, value in words}
    at = given.pop("at", "step")
    counted = at in ("step", "validation")
    known = {"rank", "epoch", "step"} if counted else {"rank", "epoch"}
    if at not in KINDS_BY_POINT or kind not in KINDS_BY_POINT[at] or not given.keys() <= known:
        raise _make_invalid_fault_error(fault_spec)
    try:
        return InjectedFault(
            kind=kind, point=at, **{name: int(number) for name, number in given.items()}
        )
    except ValueError:
        raise _make_invalid_fault_error(fault_spec) from None


def _make_invalid_fault_error(fault_spec: str) -> UsageError:
    return UsageError(
        f"no fault is called {fault_spec!r}",
        f"the environment variable {FAULTS_ENV_VAR}",
        "give such as kill:rank=1,epoch=3,step=10 or hang:rank=0,at=validation or nan:step=40",
    )

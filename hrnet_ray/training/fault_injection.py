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

from hrnet_ray.data.batch import PoseBatch
from hrnet_ray.errors import UsageError

FAULTS, ALLOW = "HRNET_RAY_FAULTS", "HRNET_RAY_ALLOW_FAULTS"
SIGNALS = {"kill": signal.SIGKILL, "hang": signal.SIGSTOP}
POINTS = {"step": (*SIGNALS, "nan"), **dict.fromkeys(("validation", "report", "end"), SIGNALS)}
BEGAN = "began.jsonl"
"""In the folder of the marks: when each worker's process had done its first step."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What strikes, whom, and when."""

    kind: str
    rank: int = 0
    epoch: int | None = None
    step: int | None = None
    at: str = "step"

    def strikes(self, rank: int, at: str, epoch: int, step: int | None) -> bool:
        """Whether this is its moment."""
        here = (self.rank, self.at) == (rank, at) and self.epoch in (None, epoch)
        return here and self.step in (None, step)


def parse(text: str) -> list[Fault]:
    """Read the notation above.

    Raises:
        UsageError: it says something else.
    """
    return [_fault(part.strip()) for part in text.split(";") if part.strip()]


def environment() -> dict[str, str]:
    """What the workers are told of it; nothing, as a rule.

    Raises:
        UsageError: it cannot be understood.
    """
    text = os.environ.get(FAULTS, "")
    if not text:
        return {}
    if os.environ.get(ALLOW) != "1":
        print(f"{FAULTS} is set but does nothing, as {ALLOW} is not 1")
        return {}
    parse(text)
    return {FAULTS: text, ALLOW: "1"}


class Faults:
    """Those that wait for one worker of a run. Where there are none, nothing is done."""

    def __init__(self, run_folder: Path, *, rank: int) -> None:
        text = os.environ.get(FAULTS, "") if os.environ.get(ALLOW) == "1" else ""
        self._mine = [(at, one) for at, one in enumerate(parse(text)) if one.rank == rank]
        self._any = self._fresh = bool(text)
        self._rank = rank
        self._folder = run_folder / "debug" / "faults"

    def meet(self, at: str, *, epoch: int, step: int | None = None) -> bool:
        """Be struck here if it is time; True when it is by a batch of NaN."""
        for number, fault in self._mine:
            if not fault.strikes(self._rank, at, epoch, step):
                continue
            if not self._first_time(f"{number:02d}-{fault.kind}", epoch=epoch, step=step):
                continue
            if fault.kind == "nan":
                return True
            os.kill(os.getpid(), SIGNALS[fault.kind])
        return False

    def training(
        self, batches: Iterator[PoseBatch], *, epoch: int, begin: int = 0
    ) -> Iterator[PoseBatch]:
        """The same batches, from the step `begin` on; some of them spoilt."""
        return self._training(batches, epoch, begin) if self._any else batches

    def validation(self, batches: Iterator[T], *, epoch: int) -> Iterator[T]:
        """The same batches; to some of them it does not come."""
        return self._validation(batches, epoch) if self._mine else batches

    def _training(
        self, batches: Iterator[PoseBatch], epoch: int, begin: int
    ) -> Iterator[PoseBatch]:
        for step, batch in enumerate(batches, start=begin):
            spoilt = self.meet("step", epoch=epoch, step=step)
            crops = torch.full_like(batch.crops, torch.nan) if spoilt else batch.crops
            yield replace(batch, crops=crops)
            if self._fresh:  # its first step is done
                self._fresh = False
                self._note_begin(epoch, step)

    def _validation(self, batches: Iterator[T], epoch: int) -> Iterator[T]:
        for step, batch in enumerate(batches):
            self.meet("validation", epoch=epoch, step=step)
            yield batch

    def _first_time(self, name: str, *, epoch: int, step: int | None) -> bool:
        """Leave the mark of a fault; False when it is there already."""
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            with (self._folder / f"{name}.json").open("x", encoding="utf-8") as mark:
                json.dump(self._moment(epoch, step), mark)
        except FileExistsError:
            return False
        return True

    def _note_begin(self, epoch: int, step: int) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / BEGAN).open("a", encoding="utf-8") as file:
            file.write(json.dumps(self._moment(epoch, step)) + "\n")

    def _moment(self, epoch: int, step: int | None) -> dict[str, float | int | None]:
        return {"at_s": time.time(), "rank": self._rank, "epoch": epoch, "step": step}


def _fault(part: str) -> Fault:
    kind, _, rest = part.partition(":")
    words = (word.partition("=") for word in rest.split(",") if word)
    given = {name: value for name, _, value in words}
    at = given.pop("at", "step")
    counted = at in ("step", "validation")
    known = {"rank", "epoch", "step"} if counted else {"rank", "epoch"}
    if at not in POINTS or kind not in POINTS[at] or not given.keys() <= known:
        raise _not_a_fault(part)
    try:
        return Fault(kind=kind, at=at, **{name: int(number) for name, number in given.items()})
    except ValueError:
        raise _not_a_fault(part) from None


def _not_a_fault(part: str) -> UsageError:
    return UsageError(
        f"no fault is called {part!r}",
        f"the environment variable {FAULTS}",
        "give such as kill:rank=1,epoch=3,step=10 or hang:rank=0,at=validation or nan:step=40",
    )

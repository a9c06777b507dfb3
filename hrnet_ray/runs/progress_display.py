"""Progress bars on a terminal: one live row per run or trial, and permanent lines above them.

Without a terminal this module is not used: `runs.progress` prints plain lines.
"""

import sys
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

NAME_WIDTH = 22
"""Columns of a trial's name; a longer one ends with an ellipsis, so that a row fits into 80."""


@dataclass(frozen=True)
class EpochProgress:
    """How far a run is within one epoch."""

    epoch: int
    """Counted from 1."""
    epochs: int
    crops_done: int
    num_crops: int
    crops_per_s: float
    loss: float | None = None
    """Mean training loss of the epoch so far; None before the first step."""

    @property
    def left_s(self) -> float:
        """Seconds of training left in this epoch at the present rate."""
        return max(0, self.num_crops - self.crops_done) / max(1e-9, self.crops_per_s)


def format_clock(seconds: float) -> str:
    """Format a duration as `m:ss`, or as `h:mm:ss` from one hour on."""
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"


class ProgressDisplay:
    """Live rows at the bottom of a terminal; `print_line` writes above them.

    While it is open, whole lines that other code prints to stdout or stderr appear above the rows,
    too. A stream of `log_capture.tee_output` prints them through its `console`.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._tees = [stream for stream in (sys.stdout, sys.stderr) if hasattr(stream, "console")]
        terminal: Any = getattr(sys.stdout, "terminal", sys.stdout)
        self.console = console or Console(file=terminal, highlight=False)
        redirect = not self._tees
        self._progress = Progress(
            *_make_columns(),
            console=self.console,
            transient=True,
            redirect_stdout=redirect,
            redirect_stderr=redirect,
        )
        self._rows: dict[str, TaskID] = {}

    def __enter__(self) -> "ProgressDisplay":
        self._progress.start()
        for tee in self._tees:
            tee.console = self.console  # pyright: ignore[reportAttributeAccessIssue]
        return self

    def __exit__(self, *_: object) -> None:
        for tee in self._tees:
            tee.console = None  # pyright: ignore[reportAttributeAccessIssue]
        self._progress.stop()

    def update_row(self, name: str, progress: EpochProgress) -> None:
        """Show how far `name` is; the first call adds its row."""
        values: dict[str, Any] = {
            "total": progress.num_crops,
            "completed": progress.crops_done,
            "epoch": f"epoch {progress.epoch}/{progress.epochs}",
            "loss": "" if progress.loss is None else f"loss {progress.loss:.2e}",
            "rate": f"{progress.crops_per_s:.0f} img/s",
            "left": f"{format_clock(progress.left_s)} left",
        }
        if name in self._rows:
            self._progress.update(self._rows[name], **values)
        else:
            self._rows[name] = self._progress.add_task(name, **values)

    def remove_row(self, name: str) -> None:
        """Remove the row of a run that ended."""
        if name in self._rows:
            self._progress.remove_task(self._rows.pop(name))


class _NameColumn(ProgressColumn):
    def render(self, task: Any) -> Text:
        name = Text(task.description, overflow="ellipsis", no_wrap=True)
        name.truncate(NAME_WIDTH, overflow="ellipsis")
        return name


def _make_columns() -> list[ProgressColumn]:
    whole = Column(no_wrap=True)
    fields = [
        TextColumn(f"{{task.fields[{field}]}}", table_column=whole, markup=False)
        for field in ("epoch", "loss", "rate", "left")
    ]
    return [_NameColumn(table_column=whole), fields[0], BarColumn(bar_width=12), *fields[1:]]

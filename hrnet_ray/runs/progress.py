"""How far a run is, for people.

A worker leaves a small file behind every second; the driver reads it, and the recorded epochs, and
prints. Bars garble the log of a submitted job, so without a terminal it is a line now and then.
"""

import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hrnet_ray.data.shards import Progress
from hrnet_ray.errors import DataError, shortened
from hrnet_ray.runs.event_log import FAULTS, METRICS, read_epochs, read_faults

BEAT_S = 1.0
QUIET_S = 15.0
"""Without a terminal, the longest silence."""

Entry = dict[str, Any]


class Pulse:
    """A worker's side: notes how many crops of the epoch are done."""

    def __init__(self, run_folder: Path, *, epochs: int, active: bool) -> None:
        self._path = run_folder / "progress.json"
        self._epochs, self._active = epochs, active
        self._epoch = self._crops = self._done = self._before = 0
        self._started = self._trained = self._noted = time.monotonic()

    def start(self, epoch: int, *, crops: int, done: int = 0) -> None:
        """An epoch of `crops` crops begins, or goes on after so many."""
        self._epoch, self._crops = epoch, crops
        self._done = self._before = done
        self._started = self._trained = time.monotonic()

    def beat(self, crops: int) -> None:
        """One more step is done."""
        self._done += crops
        self._trained = time.monotonic()
        if self._active and self._trained - self._noted > BEAT_S:
            self._noted = self._trained
            self._note()

    def rate(self) -> float:
        """Training crops a second in this epoch, of this worker."""
        return (self._done - self._before) / max(1e-9, self._trained - self._started)

    def elapsed(self) -> float:
        """Seconds since the epoch began, validation included."""
        return time.monotonic() - self._started

    def _note(self) -> None:
        note = {
            "epoch": self._epoch,
            "epochs": self._epochs,
            "done": self._done,
            "of": self._crops,
            "rate": self.rate(),
        }
        part = self._path.with_suffix(".part")
        with suppress(OSError):  # on a full disk nobody is told, and training goes on
            part.write_text(json.dumps(note), encoding="utf-8")
            part.replace(self._path)


class Watch:
    """The driver's side: tells of each newly recorded epoch, and of what goes on between.

    `folders` gives the run folders by the name to print; trials appear while a sweep runs.
    """

    def __init__(
        self,
        folders: Callable[[], Mapping[str, Path]],
        *,
        epochs: int,
        on_epoch: Callable[[Path, Entry], None] = lambda folder, entry: None,
    ) -> None:
        self._folders, self._epochs, self._on_epoch = folders, epochs, on_epoch
        # What an earlier command recorded is old news; it is shown once, as one line, by `fit`.
        self._told = {folder: len(read_epochs(folder)) for folder in folders().values()}
        self._warned = {folder: len(read_faults(folder)) for folder in folders().values()}
        self._seen: dict[Path, list[tuple[int, int]]] = {}
        self._stop = threading.Event()
        self._spoke = time.monotonic()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._seen.clear()
        self._look()  # what was recorded last

    def _run(self) -> None:
        while not self._stop.wait(BEAT_S):
            self._look()

    def _look(self) -> None:
        with suppress(OSError, DataError):  # a storage's hiccup: the next look tells what is new
            for name, folder in self._folders().items():
                stamps = [_stamp(folder / file) for file in (METRICS, FAULTS)]
                if stamps != self._seen.get(folder):
                    self._tell(name, folder)
                    self._seen[folder] = stamps
                self._between(name, folder)

    def _tell(self, name: str, folder: Path) -> None:
        faults = read_faults(folder)
        for note in faults[self._warned.get(folder, 0) :]:
            self._say(f"{name}{note}")
        self._warned[folder] = len(faults)
        epochs = read_epochs(folder)
        for entry in epochs[self._told.get(folder, 0) :]:
            self._on_epoch(folder, entry)
            self._told[folder] = self._told.get(folder, 0) + 1
            if entry.get("skipped"):
                self._say(f"{name}skipped: {shortened(entry['skipped'])}")
            self._say(f"{name}{self._sentence(entry)}")

    def _sentence(self, entry: Entry) -> str:
        score = next((n for n in ("val/OKS_AP", "val/PCKh_0.5") if n in entry), None)
        scored = f"  {score.removeprefix('val/')} {entry[score]:.3f}" if score else ""
        gpu_gb = entry.get("perf/gpu_mem_gb")
        memory = f"  {gpu_gb:.1f} GB of GPU memory" if gpu_gb else ""
        left = (self._epochs - 1 - entry["epoch"]) * entry["perf/epoch_s"]
        return (
            f"epoch {entry['epoch'] + 1:>3}/{self._epochs}  loss {entry['train/loss']:.2e}{scored}"
            f"  {entry['perf/pictures_per_s']:.0f} pictures/s{memory}  {_clock(left)} left"
        )

    def _between(self, name: str, folder: Path) -> None:
        quiet = time.monotonic() - self._spoke
        live = sys.stdout.isatty()
        if not live and quiet < QUIET_S:
            return
        try:
            note = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if note["epoch"] < self._told.get(folder, 0):
            return
        line = f"{name}epoch {note['epoch'] + 1:>3}/{note['epochs']}  {note['done']}/{note['of']}"
        self._say(f"{line}  {note['rate']:.0f} pictures/s", passing=live)

    def _say(self, line: str, *, passing: bool = False) -> None:
        if sys.stdout.isatty():
            print("\r\033[K" + line, end="" if passing else "\n", flush=True)
        else:
            print(line, flush=True)
        self._spoke = time.monotonic()


def say(line: str) -> None:
    """Print a line, in place of a passing one."""
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)


def counter(what: str, *, ends: bool = True) -> Progress:
    """A progress line: on a terminal it counts in place, elsewhere it speaks now and then.

    Without `ends` it leaves none behind: somebody else says how it ended. Of more than there should
    be (a total of 0, say), it tells no end.
    """
    started = spoke = time.monotonic()

    def count(done: int, total: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        last, live = done == total, sys.stdout.isatty()
        if last and not ends:
            print("\r\033[K" if live else "", end="", flush=True)
            return
        if not last and now - spoke < (0.2 if live else 10):
            return
        spoke = now
        rate = done / max(1e-9, now - started)
        known = done <= total
        line = f"{what:<6} {done:>6,}{f'/{total:,}' if known else ''}  {rate:.0f}/s"
        line += f"  {(total - done) / rate:.0f} s left" if known else ""
        print(f"\r\033[K{line}" if live else line, end="\n" if last or not live else "", flush=True)

    return count


def _stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return stat.st_size, stat.st_mtime_ns


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

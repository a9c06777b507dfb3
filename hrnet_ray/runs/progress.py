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

from hrnet_ray.data.shards import ProgressCallback
from hrnet_ray.errors import DataError, format_list
from hrnet_ray.runs.event_log import EVENTS_FILE, METRICS_FILE, read_events, read_metrics

UPDATE_INTERVAL_S = 1.0
MAX_SILENCE_S = 15.0
"""Without a terminal, the longest silence."""

MetricsEntry = dict[str, Any]


class ProgressReporter:
    """A worker's side: notes how many crops of the epoch are done."""

    def __init__(self, run_folder: Path, *, epochs: int, active: bool) -> None:
        self._path = run_folder / "progress.json"
        self._epochs, self._active = epochs, active
        self._epoch = self._num_crops = self._crops_done = self._crops_before = 0
        self._epoch_start_s = self._last_step_s = self._last_write_s = time.monotonic()

    def start_epoch(self, epoch: int, *, num_crops: int, crops_done: int = 0) -> None:
        """An epoch of `crops` crops begins, or goes on after so many."""
        self._epoch, self._num_crops = epoch, num_crops
        self._crops_done = self._crops_before = crops_done
        self._epoch_start_s = self._last_step_s = time.monotonic()

    def record_step(self, num_crops: int) -> None:
        """One more step is done."""
        self._crops_done += num_crops
        self._last_step_s = time.monotonic()
        if self._active and self._last_step_s - self._last_write_s > UPDATE_INTERVAL_S:
            self._last_write_s = self._last_step_s
            self._write_progress()

    def compute_crop_rate(self) -> float:
        """Training crops a second in this epoch, of this worker."""
        return (self._crops_done - self._crops_before) / max(
            1e-9, self._last_step_s - self._epoch_start_s
        )

    def measure_elapsed_s(self) -> float:
        """Seconds since the epoch began, validation included."""
        return time.monotonic() - self._epoch_start_s

    def _write_progress(self) -> None:
        note = {
            "epoch": self._epoch,
            "epochs": self._epochs,
            "done": self._crops_done,
            "of": self._num_crops,
            "rate": self.compute_crop_rate(),
        }
        part = self._path.with_suffix(".part")
        with suppress(OSError):  # on a full disk nobody is told, and training goes on
            part.write_text(json.dumps(note), encoding="utf-8")
            part.replace(self._path)


class ProgressMonitor:
    """The driver's side: tells of each newly recorded epoch, and of what goes on between.

    `folders` gives the run folders by the name to print; trials appear while a sweep runs.
    """

    def __init__(
        self,
        folders: Callable[[], Mapping[str, Path]],
        *,
        epochs: int,
        on_epoch: Callable[[Path, MetricsEntry], None] = lambda folder, entry: None,
    ) -> None:
        self._folders, self._epochs, self._on_epoch = folders, epochs, on_epoch
        # What an earlier command recorded is old news; it is shown once, as one line, by `fit`.
        self._printed_epochs = {folder: len(read_metrics(folder)) for folder in folders().values()}
        self._printed_events = {folder: len(read_events(folder)) for folder in folders().values()}
        self._file_stamps: dict[Path, list[tuple[int, int]]] = {}
        self._stop_event = threading.Event()
        self._last_print_s = time.monotonic()
        self._thread = threading.Thread(target=self._run_loop, daemon=True)

    def __enter__(self) -> "ProgressMonitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._thread.join()
        self._file_stamps.clear()
        self._poll_run_dirs()  # what was recorded last

    def _run_loop(self) -> None:
        while not self._stop_event.wait(UPDATE_INTERVAL_S):
            self._poll_run_dirs()

    def _poll_run_dirs(self) -> None:
        with suppress(OSError, DataError):  # a storage's hiccup: the next look tells what is new
            for name, folder in self._folders().items():
                stamps = [_get_file_stamp(folder / file) for file in (METRICS_FILE, EVENTS_FILE)]
                if stamps != self._file_stamps.get(folder):
                    self._print_new_records(name, folder)
                    self._file_stamps[folder] = stamps
                self._print_live_progress(name, folder)

    def _print_new_records(self, name: str, folder: Path) -> None:
        faults = read_events(folder)
        for note in faults[self._printed_events.get(folder, 0) :]:
            self._print_status(f"{name}{note}")
        self._printed_events[folder] = len(faults)
        epochs = read_metrics(folder)
        for entry in epochs[self._printed_epochs.get(folder, 0) :]:
            self._on_epoch(folder, entry)
            self._printed_epochs[folder] = self._printed_epochs.get(folder, 0) + 1
            if entry.get("skipped"):
                self._print_status(f"{name}skipped: {format_list(entry['skipped'])}")
            self._print_status(f"{name}{self._format_epoch(entry)}")

    def _format_epoch(self, entry: MetricsEntry) -> str:
        score = next((n for n in ("val/OKS_AP", "val/PCKh_0.5") if n in entry), None)
        scored = f"  {score.removeprefix('val/')} {entry[score]:.3f}" if score else ""
        gpu_gb = entry.get("perf/gpu_mem_gb")
        memory = f"  {gpu_gb:.1f} GB of GPU memory" if gpu_gb else ""
        left = (self._epochs - 1 - entry["epoch"]) * entry["perf/epoch_s"]
        return (
            f"epoch {entry['epoch'] + 1:>3}/{self._epochs}  loss {entry['train/loss']:.2e}{scored}"
            f"  {entry['perf/images_per_sec']:.0f} pictures/s{memory}  {_format_clock(left)} left"
        )

    def _print_live_progress(self, name: str, folder: Path) -> None:
        quiet = time.monotonic() - self._last_print_s
        live = sys.stdout.isatty()
        if not live and quiet < MAX_SILENCE_S:
            return
        try:
            note = json.loads((folder / "progress.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return
        if note["epoch"] < self._printed_epochs.get(folder, 0):
            return
        line = f"{name}epoch {note['epoch'] + 1:>3}/{note['epochs']}  {note['done']}/{note['of']}"
        self._print_status(f"{line}  {note['rate']:.0f} pictures/s", transient=live)

    def _print_status(self, line: str, *, transient: bool = False) -> None:
        if sys.stdout.isatty():
            print("\r\033[K" + line, end="" if transient else "\n", flush=True)
        else:
            print(line, flush=True)
        self._last_print_s = time.monotonic()


def print_line(line: str) -> None:
    """Print a line, in place of a passing one."""
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)


def make_progress_line(label: str, *, print_end: bool = True) -> ProgressCallback:
    """A progress line: on a terminal it counts in place, elsewhere it speaks now and then.

    Without `ends` it leaves none behind: somebody else says how it ended. Of more than there should
    be (a total of 0, say), it tells no end.
    """
    started = spoke = time.monotonic()

    def update_line(done: int, total: int) -> None:
        nonlocal spoke
        now = time.monotonic()
        last, live = done == total, sys.stdout.isatty()
        if last and not print_end:
            print("\r\033[K" if live else "", end="", flush=True)
            return
        if not last and now - spoke < (0.2 if live else 10):
            return
        spoke = now
        rate = done / max(1e-9, now - started)
        known = done <= total
        line = f"{label:<6} {done:>6,}{f'/{total:,}' if known else ''}  {rate:.0f}/s"
        line += f"  {(total - done) / rate:.0f} s left" if known else ""
        print(f"\r\033[K{line}" if live else line, end="\n" if last or not live else "", flush=True)

    return update_line


def _get_file_stamp(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except FileNotFoundError:
        return (0, 0)
    return stat.st_size, stat.st_mtime_ns


def _format_clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"

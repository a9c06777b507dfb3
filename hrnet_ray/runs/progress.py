"""Progress of a run.

Rank 0 writes `progress.json` every second. The driver reads it together with the recorded epochs,
and shows live rows on a terminal. Elsewhere it prints plain lines, because bars garble a job's log.
"""

import json
import math
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
from hrnet_ray.runs.progress_display import EpochProgress, ProgressDisplay, format_clock
from hrnet_ray.utils.files import get_file_stamp, write_text_atomically

UPDATE_INTERVAL_S = 1.0
"""Seconds between two writes of `progress.json`, and between two reads."""
MAX_SILENCE_S = 15.0
"""Seconds without output, at most, when stdout is not a terminal."""

MetricsEntry = dict[str, Any]


class ProgressReporter:
    """A worker's side: records how many crops of the epoch are done. Epochs count from 1."""

    def __init__(self, run_folder: Path, *, epochs: int, active: bool) -> None:
        self._path = run_folder / "progress.json"
        self._epochs, self._active = epochs, active
        self._epoch = self._num_crops = self._crops_done = self._crops_before = 0
        self._epoch_start_s = self._last_step_s = self._last_write_s = time.monotonic()

    def start_epoch(self, epoch: int, *, num_crops: int, crops_done: int = 0) -> None:
        """Begin an epoch of `num_crops` crops, of which `crops_done` were done before a restart."""
        self._epoch, self._num_crops = epoch, num_crops
        self._crops_done = self._crops_before = crops_done
        self._epoch_start_s = self._last_step_s = time.monotonic()

    def record_step(self, num_crops: int, *, mean_loss: Callable[[], float]) -> None:
        """Add the crops of one step; `mean_loss` waits for the device, so once a second at most."""
        self._crops_done += num_crops
        self._last_step_s = time.monotonic()
        if self._active and self._last_step_s - self._last_write_s > UPDATE_INTERVAL_S:
            self._last_write_s = self._last_step_s
            self._write_progress(mean_loss())

    def compute_crop_rate(self) -> float:
        """Training crops per second in this epoch, of this worker."""
        return (self._crops_done - self._crops_before) / max(1e-9, self._last_step_s - self._epoch_start_s)

    def measure_elapsed_s(self) -> float:
        """Seconds since the epoch began, validation included."""
        return time.monotonic() - self._epoch_start_s

    def _write_progress(self, loss: float) -> None:
        progress = {
            "epoch": self._epoch,
            "epochs": self._epochs,
            "done": self._crops_done,
            "of": self._num_crops,
            "rate": self.compute_crop_rate(),
            "loss": loss if math.isfinite(loss) else None,
        }
        with suppress(OSError):  # on a full disk the training continues without a display
            write_text_atomically(self._path, json.dumps(progress))


class ProgressMonitor:
    """The driver's side: prints each newly recorded epoch, and the progress in between.

    `folders` returns the run folders by the label to print; a study adds trials while it runs.
    """

    def __init__(
        self,
        folders: Callable[[], Mapping[str, Path]],
        *,
        epochs: int,
        on_epoch: Callable[[Path, MetricsEntry], None] = lambda folder, entry: None,
    ) -> None:
        self._folders, self._epochs, self._on_epoch = folders, epochs, on_epoch
        # `print_run_header` summarizes what an earlier command recorded.
        self._printed_epochs = {folder: len(read_metrics(folder)) for folder in folders().values()}
        self._printed_events = {folder: len(read_events(folder)) for folder in folders().values()}
        self._file_stamps: dict[Path, list[tuple[int, int]]] = {}
        self._stop_event = threading.Event()
        self._last_print_s = time.monotonic()
        self._display: ProgressDisplay | None = None
        self._thread = threading.Thread(target=self._run_loop, daemon=True)

    def __enter__(self) -> "ProgressMonitor":
        if sys.stdout.isatty():
            self._display = ProgressDisplay().__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_event.set()
        self._thread.join()
        if self._display:
            self._display.__exit__()
            self._display = None
        self._file_stamps.clear()
        self._poll_run_dirs()  # the last entries

    def _run_loop(self) -> None:
        while not self._stop_event.wait(UPDATE_INTERVAL_S):
            self._poll_run_dirs()

    def _poll_run_dirs(self) -> None:
        with suppress(OSError, DataError):  # a storage error: the next poll catches up
            for name, folder in self._folders().items():
                stamps = [get_file_stamp(folder / file) for file in (METRICS_FILE, EVENTS_FILE)]
                if stamps != self._file_stamps.get(folder):
                    self._print_new_records(name, folder)
                    self._file_stamps[folder] = stamps
                self._show_progress(name, folder)

    def _print_new_records(self, name: str, folder: Path) -> None:
        events = read_events(folder)
        for message in events[self._printed_events.get(folder, 0) :]:
            self._print_line(f"{name}{message}")
        self._printed_events[folder] = len(events)
        epochs = read_metrics(folder)
        for entry in epochs[self._printed_epochs.get(folder, 0) :]:
            self._on_epoch(folder, entry)
            self._printed_epochs[folder] = self._printed_epochs.get(folder, 0) + 1
            if entry.get("corrupt_row_names"):
                self._print_line(f"{name}skipped: {format_list(entry['corrupt_row_names'])}")
            self._print_line(f"{name}{self._format_epoch(entry)}")

    def _format_epoch(self, entry: MetricsEntry) -> str:
        score = next((n for n in ("val/OKS_AP", "val/PCKh_0.5") if n in entry), None)
        score_text = f"  {score.removeprefix('val/')} {entry[score]:.3f}" if score else ""
        gpu_gb = entry.get("perf/gpu_mem_gb")
        memory = f"  {gpu_gb:.1f} GB of GPU memory" if gpu_gb else ""
        left_s = (self._epochs - entry["epoch"]) * entry["perf/epoch_s"]
        return (
            f"epoch {entry['epoch']:>3}/{self._epochs}  loss {entry['train/loss']:.2e}{score_text}"
            f"  {entry['perf/images_per_sec']:.0f} img/s{memory}  {format_clock(left_s)} left"
        )

    def _show_progress(self, name: str, folder: Path) -> None:
        progress, row = _read_progress(folder), name.strip() or folder.name
        if progress and progress.epoch <= self._printed_epochs.get(folder, 0):
            progress = None  # that epoch has ended
        if self._display and progress:
            self._display.update_row(row, progress)
        elif self._display:
            self._display.remove_row(row)
        elif progress and time.monotonic() - self._last_print_s >= MAX_SILENCE_S:
            loss = "" if progress.loss is None else f"  loss {progress.loss:.2e}"
            self._print_line(
                f"{name}epoch {progress.epoch:>3}/{progress.epochs}  "
                f"{progress.crops_done}/{progress.num_crops}{loss}  "
                f"{progress.crops_per_s:.0f} img/s  {format_clock(progress.left_s)} left"
            )

    def _print_line(self, line: str) -> None:
        print(line, flush=True)
        self._last_print_s = time.monotonic()


def print_line(line: str) -> None:
    """Print a line in place of a transient one."""
    print(f"\r\033[K{line}" if sys.stdout.isatty() else line, flush=True)


def make_progress_line(label: str, *, print_end: bool = True) -> ProgressCallback:
    """Make a callback that prints progress: in place on a terminal, every 10 s elsewhere.

    With `print_end=False` the caller reports the end, and no line is left on the terminal. If more
    is done than the total (a total of 0, for example), neither total nor time left is printed.
    """
    started_s = printed_s = time.monotonic()

    def update_line(done: int, total: int) -> None:
        nonlocal printed_s
        now_s = time.monotonic()
        is_last, is_terminal = done == total, sys.stdout.isatty()
        if is_last and not print_end:
            print("\r\033[K" if is_terminal else "", end="", flush=True)
            return
        if not is_last and now_s - printed_s < (0.2 if is_terminal else 10):
            return
        printed_s = now_s
        rate = done / max(1e-9, now_s - started_s)
        total_known = done <= total
        line = f"{label:<6} {done:>6,}{f'/{total:,}' if total_known else ''}  {rate:.0f}/s"
        line += f"  {(total - done) / rate:.0f} s left" if total_known else ""
        end = "\n" if is_last or not is_terminal else ""
        print(f"\r\033[K{line}" if is_terminal else line, end=end, flush=True)

    return update_line


def _read_progress(run_folder: Path) -> EpochProgress | None:
    try:
        progress = json.loads((run_folder / "progress.json").read_text(encoding="utf-8"))
        return EpochProgress(
            epoch=progress["epoch"],
            epochs=progress["epochs"],
            crops_done=progress["done"],
            num_crops=progress["of"],
            crops_per_s=progress["rate"],
            loss=progress["loss"],
        )
    except (OSError, ValueError, KeyError):
        return None

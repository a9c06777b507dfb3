"""Report of a diverged training: the step, the rows, and what happens next."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import TrainingDivergedError, format_list
from hrnet_ray.runs.event_log import ignore_write_errors, log_event
from hrnet_ray.training.nan_guard import DivergenceDetected
from hrnet_ray.utils.collectives import gather_objects
from hrnet_ray.utils.files import write_text_atomically

LR_BACKOFF = 0.5
"""Factor applied to the learning rate after the first divergence. A second one aborts the run:
its cause is in the data or far off in the settings."""
NONFINITE_BATCHES_FILE = Path("debug") / "nonfinite_batches.json"


@dataclass(frozen=True, kw_only=True)
class DivergenceReport:
    """Where a training diverged, and the rows of its last steps."""

    reason: str
    epoch: int
    """Counted from 1."""
    ids_by_step: dict[int, list[int]]
    """Ids of training rows by step (from 0): of the ranks whose own loss was NaN or Inf, if any."""

    @classmethod
    def collect_from_workers(
        cls, divergence: DivergenceDetected, seen_ids: Sequence[Sequence[int]], *, epoch: int
    ) -> "DivergenceReport":
        """Gather the report from all ranks; `seen_ids` are this rank's rows by step."""
        own_steps = [
            (list(seen_ids[step]), step in divergence.local_nonfinite_steps) for step in divergence.skipped_steps
        ]
        steps_by_rank = gather_objects(own_steps)
        ids_by_step = {}
        for index, step in enumerate(divergence.skipped_steps):
            ranks = [steps[index] for steps in steps_by_rank]
            nonfinite = [ids for ids, is_nonfinite in ranks if is_nonfinite]
            ids_by_step[step] = [id for ids in nonfinite or [ids for ids, _ in ranks] for id in ids]
        return cls(reason=divergence.reason, epoch=epoch, ids_by_step=ids_by_step)

    def save_json(self, run_folder: Path) -> None:
        """Write `debug/nonfinite_batches.json`."""
        path = run_folder / NONFINITE_BATCHES_FILE
        with ignore_write_errors(run_folder, path.name):
            path.parent.mkdir(exist_ok=True)
            steps = [{"step": step, "ids": ids} for step, ids in self.ids_by_step.items()]
            content = {"what": self.reason, "epoch": self.epoch, "split": "train", "steps": steps}
            write_text_atomically(path, json.dumps(content, indent=2))

    def log_rollback(self, run_folder: Path, *, last_good_epoch: int) -> None:
        """Log that the run returns to `last_good_epoch` (0: to its start) at a lower rate."""
        target = "the last checkpoint" if last_good_epoch else "the start"
        log_event(
            run_folder,
            "diverged",
            f"epoch {self.epoch}: {self.reason}; resuming from {target} at {LR_BACKOFF:g} times "
            f"the learning rate ({self._describe_rows()})",
        )

    def to_error(self, run_folder: Path, *, lr: float) -> TrainingDivergedError:
        """Build the error of a second divergence."""
        return TrainingDivergedError(
            f"training diverged again, at {LR_BACKOFF:g} times the learning rate: {self.reason}",
            f"{run_folder}: epoch {self.epoch}, {self._describe_rows()}",
            f"inspect these rows with `hrnet-ray check`, or lower --optim.lr (was {lr:g}) and choose another --name",
        )

    def _describe_rows(self) -> str:
        ids = [str(id) for step_ids in self.ids_by_step.values() for id in step_ids]
        rows = f"training rows {format_list(ids, max_items=8)}: " if ids else ""
        return f"{rows}{NONFINITE_BATCHES_FILE}"


def handle_divergence(
    divergence: DivergenceDetected,
    seen_ids: Sequence[Sequence[int]],
    run_folder: Path,
    *,
    lr: float,
    lr_factor: float,
    last_good_epoch: int,
    is_rank0: bool,
) -> None:
    """Report a divergence of the epoch after `last_good_epoch`; every rank has to call this.

    Raises:
        TrainingDivergedError: the learning rate was already reduced.
    """
    report = DivergenceReport.collect_from_workers(divergence, seen_ids, epoch=last_good_epoch + 1)
    if is_rank0:
        report.save_json(run_folder)
    if lr_factor < 1:
        raise report.to_error(run_folder, lr=lr) from None
    if is_rank0:
        report.log_rollback(run_folder, last_good_epoch=last_good_epoch)

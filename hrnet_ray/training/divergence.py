"""What is said, and kept, of a training that diverged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import TrainingDivergedError, format_list
from hrnet_ray.runs.event_log import ignore_write_errors, log_event
from hrnet_ray.training.nan_guard import DivergenceDetected
from hrnet_ray.utils.collectives import gather_objects

LR_BACKOFF = 0.5
"""Of the learning rate is left after the first time. There is no second: what diverges at half the
rate too is wrong in its data or far off in its settings, and hours would show no more."""
NONFINITE_BATCHES_FILE = Path("debug") / "nonfinite_batches.json"


@dataclass(frozen=True, kw_only=True)
class DivergenceReport:
    """Where a training diverged, and the rows that were learnt from just then."""

    reason: str
    epoch: int
    ids_by_step: dict[int, list[int]]
    """Ids of training rows by step: of the workers whose own loss was no number, if any was."""

    @classmethod
    def collect_from_workers(
        cls, divergence: DivergenceDetected, seen_ids: Sequence[Sequence[int]], *, epoch: int
    ) -> "DivergenceReport":
        """Ask all workers; `met` are this one's rows of the epoch, by step."""
        mine = [
            (list(seen_ids[step]), step in divergence.local_nonfinite_steps)
            for step in divergence.skipped_steps
        ]
        everybody = gather_objects(mine)
        rows = {}
        for at, step in enumerate(divergence.skipped_steps):
            parts = [worker[at] for worker in everybody]
            guilty = [ids for ids, own in parts if own] or [ids for ids, _ in parts]
            rows[step] = [id for ids in guilty for id in ids]
        return cls(reason=divergence.reason, epoch=epoch, ids_by_step=rows)

    def save_json(self, run_folder: Path) -> None:
        """Write `debug/nonfinite_batches.json`."""
        path = run_folder / NONFINITE_BATCHES_FILE
        with ignore_write_errors(run_folder, path.name):
            path.parent.mkdir(exist_ok=True)
            steps = [{"step": step, "ids": ids} for step, ids in self.ids_by_step.items()]
            content = {"what": self.reason, "epoch": self.epoch, "split": "train", "steps": steps}
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def log_rollback(self, run_folder: Path, *, last_good_epoch: int) -> None:
        """Say that the run goes back, and on at a lower rate; `since` is its last good epoch."""
        back = "the last checkpoint" if last_good_epoch >= 0 else "the start"
        log_event(
            run_folder,
            "diverged",
            f"epoch {self.epoch + 1}: {self.reason}; going on from {back} at {LR_BACKOFF:g} times the "
            f"learning rate ({self._describe_rows()})",
        )

    def to_error(self, run_folder: Path, *, lr: float) -> TrainingDivergedError:
        """It diverged again."""
        return TrainingDivergedError(
            f"the training diverged, at {LR_BACKOFF:g} times its learning rate too: {self.reason}",
            f"{run_folder}: epoch {self.epoch + 1}, {self._describe_rows()}",
            f"look at these rows with `hrnet-ray check`, or lower --optim.lr (it was {lr:g}) and "
            "give the run another --name",
        )

    def _describe_rows(self) -> str:
        ids = [str(id) for part in self.ids_by_step.values() for id in part]
        return (
            f"training rows {format_list(ids, max_items=8)}: {NONFINITE_BATCHES_FILE}"
            if ids
            else str(NONFINITE_BATCHES_FILE)
        )

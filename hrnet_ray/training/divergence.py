"""What is said, and kept, of a training that diverged."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import DivergedError, shortened
from hrnet_ray.runs.event_log import append_fault, tolerated
from hrnet_ray.training.nan_guard import Diverging
from hrnet_ray.utils.collectives import of_everybody

SLOWER = 0.5
"""Of the learning rate is left after the first time. There is no second: what diverges at half the
rate too is wrong in its data or far off in its settings, and hours would show no more."""
NAN_BATCH = Path("debug") / "nan_batch.json"


@dataclass(frozen=True, kw_only=True)
class Blame:
    """Where a training diverged, and the rows that were learnt from just then."""

    what: str
    epoch: int
    rows: dict[int, list[int]]
    """Ids of training rows by step: of the workers whose own loss was no number, if any was."""

    @classmethod
    def of(cls, trouble: Diverging, met: Sequence[Sequence[int]], *, epoch: int) -> "Blame":
        """Ask all workers; `met` are this one's rows of the epoch, by step."""
        mine = [(list(met[step]), step in trouble.mine) for step in trouble.steps]
        everybody = of_everybody(mine)
        rows = {}
        for at, step in enumerate(trouble.steps):
            parts = [worker[at] for worker in everybody]
            guilty = [ids for ids, own in parts if own] or [ids for ids, _ in parts]
            rows[step] = [id for ids in guilty for id in ids]
        return cls(what=trouble.what, epoch=epoch, rows=rows)

    def keep(self, run_folder: Path) -> None:
        """Write `debug/nan_batch.json`."""
        path = run_folder / NAN_BATCH
        with tolerated(run_folder, path.name):
            path.parent.mkdir(exist_ok=True)
            steps = [{"step": step, "ids": ids} for step, ids in self.rows.items()]
            content = {"what": self.what, "epoch": self.epoch, "split": "train", "steps": steps}
            path.write_text(json.dumps(content, indent=2), encoding="utf-8")

    def note(self, run_folder: Path, *, since: int) -> None:
        """Say that the run goes back, and on at a lower rate; `since` is its last good epoch."""
        back = "the last checkpoint" if since >= 0 else "the start"
        append_fault(
            run_folder,
            "diverged",
            f"epoch {self.epoch + 1}: {self.what}; going on from {back} at {SLOWER:g} times the "
            f"learning rate ({self._named()})",
        )

    def error(self, run_folder: Path, *, lr: float) -> DivergedError:
        """It diverged again."""
        return DivergedError(
            f"the training diverged, at {SLOWER:g} times its learning rate too: {self.what}",
            f"{run_folder}: epoch {self.epoch + 1}, {self._named()}",
            f"look at these rows with `hrnet-ray check`, or lower --optim.lr (it was {lr:g}) and "
            "give the run another --name",
        )

    def _named(self) -> str:
        ids = [str(id) for part in self.rows.values() for id in part]
        return f"training rows {shortened(ids, most=8)}: {NAN_BATCH}" if ids else str(NAN_BATCH)

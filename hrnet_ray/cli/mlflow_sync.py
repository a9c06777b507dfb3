"""`hrnet-ray mlflow-sync`: send MLflow the records of a run that it missed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.data.annotations import require_dir


@dataclass(frozen=True, kw_only=True)
class MlflowSyncArgs:
    """Send MLflow the records that it missed, because its server was down or the run was killed.

    hrnet-ray mlflow-sync runs/atrw/first --tracking-uri http://127.0.0.1:5000

    Syncing is idempotent. If the server requires a login, set MLFLOW_TRACKING_USERNAME and
    MLFLOW_TRACKING_PASSWORD; a run's folder stores neither.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Folder of a run, or of a study with its trials."""
    tracking_uri: str | None = None
    """MLflow server; by default the one that the run was started with."""


def run(args: MlflowSyncArgs) -> None:
    """Sync the runs and print for each one what was new."""
    from hrnet_ray.runs.controller import RunController
    from hrnet_ray.runs.lock import RunLock
    from hrnet_ray.tracking.sync_command import sync_runs

    require_dir(args.folder, "RUN")
    folder = args.folder.resolve()
    in_study = folder.parent.name == "trials" and (folder.parents[1] / "resolved_config.json").is_file()

    def sync_and_print() -> None:
        for run_dir, summary in sync_runs(folder, tracking_uri=args.tracking_uri):
            print(f"{run_dir.relative_to(folder.parent)}: {summary}", flush=True)

    controller = RunController()
    with RunLock(folder.parents[1] if in_study else folder, controller):
        controller.run(sync_and_print)

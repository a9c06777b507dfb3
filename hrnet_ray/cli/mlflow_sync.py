"""`hrnet-ray mlflow-sync`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from hrnet_ray.data.annotations import require_dir


@dataclass(frozen=True, kw_only=True)
class MlflowSyncArgs:
    """Tell MLflow what it was not told: its server was away, or the command was killed.

    hrnet-ray mlflow-sync runs/atrw/first --tracking-uri http://127.0.0.1:5000

    Once or ten times, the same comes out. Where the server wants a name and a password, set
    MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; neither is kept in a run's folder.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Of a run, or of a study with its trials."""
    tracking_uri: str | None = None
    """MLflow server; by default the one that the run was to tell."""


def run(args: MlflowSyncArgs) -> None:
    """Tell it, and say for each run what was new."""
    from hrnet_ray.runs.lock import RunLock
    from hrnet_ray.tracking.sync_command import sync_runs

    require_dir(args.folder, "FOLDER")
    folder = args.folder.resolve()
    in_study = (
        folder.parent.name == "trials" and (folder.parents[1] / "resolved_config.json").is_file()
    )
    with RunLock(folder.parents[1] if in_study else folder):
        for told, news in sync_runs(folder, tracking_uri=args.tracking_uri):
            print(f"{told.relative_to(folder.parent)}: {news}", flush=True)

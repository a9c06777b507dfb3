"""Complete MLflow afterwards: the server was down, or the command was killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrnet_ray.errors import DataError
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking.experiment import (
    default_tracking_uri,
    mark_abandoned_runs,
    validate_tracking_uri,
)
from hrnet_ray.tracking.run_record import find_run_dirs, read_run_record
from hrnet_ray.tracking.sync_run import RunSyncer, count_unsynced


def sync_runs(folder: Path, *, tracking_uri: str | None = None) -> Iterator[tuple[Path, str]]:
    """Sync a run, or a study and its trials; yield each folder and what was new.

    No command may work in the folder meanwhile: a run without an end counts as abandoned. Syncing
    is idempotent. `tracking_uri` defaults to the run's own.

    Raises:
        UsageError: the address is none.
        DataError: there is no run in the folder.
        ClusterError: the server does not answer.
    """
    from hrnet_ray.tracking.mlflow_store import MlflowStore

    runs = find_run_dirs(folder)
    if not runs:
        raise DataError(
            "no run to sync to MLflow",
            str(folder),
            "give the folder of a run or a study (runs/<data set>/<name>); one that was made by an "
            "older version needs its command once more",
        )
    mark_abandoned_runs(runs)
    address = tracking_uri or _resolve_tracking_uri(runs[0])
    validate_tracking_uri(address)
    server = MlflowStore(address)
    teller = RunSyncer(server)
    for run in runs:
        left = count_unsynced(run, server.redacted_uri)
        with _translate_read_errors(run):
            teller.sync_run(run)
        yield run, ", ".join(f"{count} {what}" for what, count in left.items()) or "nothing new"


def _resolve_tracking_uri(folder: Path) -> str:
    with _translate_read_errors(folder):
        story = read_run_record(folder)
    if story and story.tracking_uri:
        return story.tracking_uri
    return default_tracking_uri((folder / (story.storage_relpath if story else "")).resolve())


@contextmanager
def _translate_read_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataError(
            "a run that cannot be read",
            f"{folder}: {redact_secrets(str(error))}",
            "its command once more writes anew what MLflow shall know of it",
        ) from error

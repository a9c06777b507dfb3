"""Tells MLflow afterwards what it was not told: a server was away, or the command was killed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hrnet_ray.errors import DataError
from hrnet_ray.text import without_secrets
from hrnet_ray.tracking.experiment import check_address, database_uri, give_up_lost
from hrnet_ray.tracking.run_record import read_story, stories_below
from hrnet_ray.tracking.sync_run import Teller, missing


def sync(folder: Path, *, tracking_uri: str | None = None) -> Iterator[tuple[Path, str]]:
    """Tell everything about a run, or about a study and its trials; yields each and what was new.

    Nobody may work in the folder meanwhile: a run without an end counts as lost. Any number of
    times; without `tracking_uri`, to where the run wanted it told.

    Raises:
        UsageError: the address is none.
        DataError: there is no run in the folder.
        ClusterError: the server does not answer.
    """
    from hrnet_ray.tracking.mlflow_store import Server

    runs = stories_below(folder)
    if not runs:
        raise DataError(
            "no run that MLflow could be told of",
            str(folder),
            "give the folder of a run or a study (runs/<data set>/<name>); one that was made by an "
            "older version needs its command once more",
        )
    give_up_lost(runs)
    address = tracking_uri or _address_of(runs[0])
    check_address(address)
    server = Server(address)
    teller = Teller(server)
    for run in runs:
        left = missing(run, server.name)
        with _legible(run):
            teller.tell(run)
        yield run, ", ".join(f"{count} {what}" for what, count in left.items()) or "nothing new"


def _address_of(folder: Path) -> str:
    with _legible(folder):
        story = read_story(folder)
    if story and story.address:
        return story.address
    return database_uri((folder / (story.storage if story else "")).resolve())


@contextmanager
def _legible(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise DataError(
            "a run that cannot be read",
            f"{folder}: {without_secrets(str(error))}",
            "its command once more writes anew what MLflow shall know of it",
        ) from error

"""A model out of MLflow, checked against what its run or its version says it is.

Who can write to a store of artifacts need not be who trained: a file whose sha256 is not that of
the tag is refused before anything reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_package import CARD, CONFIG, FINGERPRINTS, WEIGHTS, sha256_of
from hrnet_ray.tracking.logged_model import HOME
from hrnet_ray.tracking.model_registry import Registry, Version

from mlflow.store.artifact.artifact_repository_registry import (  # isort: skip
    get_artifact_repository,
)


@dataclass(frozen=True)
class Fetched:
    """A model folder that was copied here, and whose it is."""

    folder: Path
    run_id: str
    version: Version | None
    checked: bool
    """False for a run that has no tags to check by: it was not yet finished."""


def fetch_model(registry: Registry, text: str, flag: str, into: Path) -> Fetched:
    """Copy the model of a run's id, `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises:
        DataError: there is no such model, or its files are not what was registered.
        ClusterError: the store does not answer.
    """
    if text.startswith("models:/"):
        version = registry.named(text)
        if not version:
            raise _no_model(text, flag, registry)
        folder = _copied(registry, f"{version.place.rstrip('/')}/{HOME}", into, text, flag)
        _check(folder, version.tags, f"{flag} {text}: {version}", missing_is_fine=False)
        return Fetched(folder, version.run_id, version, checked=True)
    run = registry.run(text)
    if not run:
        raise _no_model(text, flag, registry)
    place = (run.info.artifact_uri or "").rstrip("/")
    folder = _copied(registry, f"{place}/model", into, text, flag)
    checked = _check(folder, run.data.tags, f"{flag} {text}", missing_is_fine=True)
    return Fetched(folder, text, None, checked=checked)


def _copied(registry: Registry, place: str, into: Path, text: str, flag: str) -> Path:
    """Copy three files by their names: what else lies there, under which name, does not matter."""
    into.mkdir(exist_ok=True)
    with registry.answering():
        files = get_artifact_repository(place, registry.address, registry.address)
        there = {Path(file.path).name for file in files.list_artifacts()}
        if not {CONFIG, WEIGHTS} <= there:
            raise _no_model(text, flag, registry)
        for name in (CONFIG, WEIGHTS, CARD):
            if name in there:
                files.download_artifacts(name, str(into))
    return into


def _check(folder: Path, tags: Mapping[str, str], where: str, *, missing_is_fine: bool) -> bool:
    for name, tag in FINGERPRINTS.items():
        if tag not in tags:
            if missing_is_fine:
                return False
            raise DataError(
                "a model that nobody vouches for",
                f"{where} has no tag {tag}",
                "register it with `hrnet-ray promote`, which notes what it is made of",
            )
        if sha256_of(folder / name) != tags[tag]:
            raise DataError(
                "a model that was changed after it was registered",
                f"{where}: {name} is not the file of its tag {tag}",
                "find out who wrote there; promote the run again, or use another version",
            )
    return True


def _no_model(text: str, flag: str, registry: Registry) -> DataError:
    return DataError(
        "no model there",
        f"{flag} {text} in {registry.said}",
        "give the id of a finished run, models:/NAME@ALIAS or models:/NAME/NUMBER, and its "
        "--tracking-uri",
    )

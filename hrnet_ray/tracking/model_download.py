"""Download a model from MLflow and check it against the tags of its run or version.

Write access to the artifact store may be wider than access to the run. A file whose sha256 differs
from the tag is refused before anything reads it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_package import (
    CONFIG_FILE,
    FILE_HASH_TAGS,
    MODEL_CARD_FILE,
    WEIGHTS_FILE,
)
from hrnet_ray.tracking.logged_model import MODEL_PACKAGE_DIR
from hrnet_ray.tracking.model_registry import ModelRegistry, RegisteredVersion
from hrnet_ray.utils.files import sha256_file

from mlflow.store.artifact.artifact_repository_registry import (  # isort: skip
    get_artifact_repository,
)


@dataclass(frozen=True)
class DownloadedModel:
    """A model folder that was copied here, and whose it is."""

    folder: Path
    run_id: str
    version: RegisteredVersion | None
    hash_verified: bool
    """False for a run that has no tags to check by: it was not yet finished."""


def download_model(registry: ModelRegistry, run_id_or_uri: str, flag: str, out_dir: Path) -> DownloadedModel:
    """Copy the model of a run's id, `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises:
        DataError: there is no such model, or its files are not what was registered.
        ClusterError: the store does not answer.
    """
    if run_id_or_uri.startswith("models:/"):
        version = registry.get_by_uri(run_id_or_uri)
        if not version:
            raise _make_model_not_found_error(run_id_or_uri, flag, registry)
        folder = _copy_model_files(
            registry,
            f"{version.artifact_uri.rstrip('/')}/{MODEL_PACKAGE_DIR}",
            out_dir,
            run_id_or_uri,
            flag,
        )
        _verify_hashes(folder, version.tags, f"{flag} {run_id_or_uri}: {version}", allow_missing=False)
        return DownloadedModel(folder, version.run_id, version, hash_verified=True)
    run = registry.get_run(run_id_or_uri)
    if not run:
        raise _make_model_not_found_error(run_id_or_uri, flag, registry)
    place = (run.info.artifact_uri or "").rstrip("/")
    folder = _copy_model_files(registry, f"{place}/model", out_dir, run_id_or_uri, flag)
    checked = _verify_hashes(folder, run.data.tags, f"{flag} {run_id_or_uri}", allow_missing=True)
    return DownloadedModel(folder, run_id_or_uri, None, hash_verified=checked)


def _copy_model_files(registry: ModelRegistry, artifact_uri: str, out_dir: Path, run_id_or_uri: str, flag: str) -> Path:
    """Copy three files by their names: what else lies there, under which name, does not matter."""
    out_dir.mkdir(exist_ok=True)
    with registry.translate_errors():
        files = get_artifact_repository(artifact_uri, registry.tracking_uri, registry.tracking_uri)
        there = {Path(file.path).name for file in files.list_artifacts()}
        if not {CONFIG_FILE, WEIGHTS_FILE} <= there:
            raise _make_model_not_found_error(run_id_or_uri, flag, registry)
        for name in (CONFIG_FILE, WEIGHTS_FILE, MODEL_CARD_FILE):
            if name in there:
                files.download_artifacts(name, str(out_dir))
    return out_dir


def _verify_hashes(folder: Path, tags: Mapping[str, str], where: str, *, allow_missing: bool) -> bool:
    for name, tag in FILE_HASH_TAGS.items():
        if tag not in tags:
            if allow_missing:
                return False
            raise DataError(
                "a model without a sha256 tag",
                f"{where} has no tag {tag}",
                "register it with `hrnet-ray promote`, which notes what it is made of",
            )
        if sha256_file(folder / name) != tags[tag]:
            raise DataError(
                "a model that was changed after it was registered",
                f"{where}: {name} is not the file of its tag {tag}",
                "find out who wrote there; promote the run again, or use another version",
            )
    return True


def _make_model_not_found_error(run_id_or_uri: str, flag: str, registry: ModelRegistry) -> DataError:
    return DataError(
        "the model does not exist",
        f"{flag} {run_id_or_uri} in {registry.redacted_uri}",
        "give the id of a finished run, models:/NAME@ALIAS or models:/NAME/NUMBER, and its --tracking-uri",
    )

"""MLflow's model registry: versions of a model, and which of them is the champion.

What a version is, and why it was or was not promoted, stands in its tags and its description. The
aliases `champion` and `previous` are moved by `hrnet-ray promote` only; `challenger` is the best of
the last study, or the last model that was not better.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from hrnet_ray.errors import ClusterError
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking.mlflow_store import (  # before mlflow: it sets its limits
    RUN_KEY_TAG,
    STORE_ERRORS,
    sanitize_metric_name,
)
from hrnet_ray.tracking.run_record import read_run_key

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient  # isort: skip
from mlflow.entities import Metric, Run  # isort: skip
from mlflow.entities.model_registry import ModelVersion  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
UPLOAD_TIMEOUT_S = 120
"""A server may take so long to put weights away. The end of a study waits for it, no training."""

_VERSION_URI_PATTERN = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w.-]+)|/(?P<number>\d{1,9}))")
_NOT_FOUND_CODES = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def get_registered_model_name(dataset_name: str) -> str:
    """Under which name the models of a data set compete."""
    return "hrnet-" + re.sub(r"[^\w.-]", "-", dataset_name)


@dataclass(frozen=True)
class RegisteredVersion:
    """A version of a registered model."""

    name: str
    version_number: str
    run_id: str
    artifact_uri: str
    """Where its files are: a URI."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} version {self.version_number}"

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.version_number}"


class ModelRegistry:
    """The models and runs of one MLflow store.

    Raises (every method):
        ClusterError: the store does not answer.
    """

    def __init__(self, tracking_uri: str) -> None:
        self.tracking_uri = tracking_uri
        self.redacted_uri = redact_secrets(tracking_uri, {})
        """The address without name and password."""
        with self.translate_errors():
            self.client = MlflowClient(tracking_uri, tracking_uri)

    def get_by_alias(self, name: str, alias: str) -> RegisteredVersion | None:
        """The version that has an alias."""
        with self.translate_errors(), _ignore_not_found():
            return self._to_registered_version(self.client.get_model_version_by_alias(name, alias))
        return None

    def get_by_uri(self, uri: str) -> RegisteredVersion | None:
        """The version of `models:/NAME@ALIAS` or `models:/NAME/NUMBER`."""
        if not (match := _VERSION_URI_PATTERN.fullmatch(uri)):
            return None
        if alias := match["alias"]:
            return self.get_by_alias(match["name"], alias)
        with self.translate_errors(), _ignore_not_found():
            return self._to_registered_version(self.client.get_model_version(match["name"], match["number"]))
        return None

    def find_by_tags(self, name: str, tags: Mapping[str, str]) -> RegisteredVersion | None:
        """The newest version with all these tags: the same model, registered before."""
        with self.translate_errors():
            found = self.client.search_model_versions(f"name = '{name}'")
            same = [v for v in found if tags.items() <= v.tags.items()]
            newest = max(same, key=lambda v: int(v.version), default=None)
            return self._to_registered_version(newest) if newest else None

    def register_version(
        self, name: str, *, run_id: str, model_id: str, artifact_uri: str, tags: Mapping[str, str]
    ) -> RegisteredVersion:
        """Make a version of a logged model; it has no alias yet."""
        with self.translate_errors():
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self.client.create_model_version(
                name,
                artifact_uri,
                run_id,
                tags=dict(tags),
                model_id=model_id,
                await_creation_for=0,  # it exists at once; MLflow would log that it waits
            )
            return self._to_registered_version(made)

    def annotate_version(self, version: RegisteredVersion, tags: Mapping[str, str], description: str) -> None:
        """Write on a version what was found about it."""
        with self.translate_errors():
            for tag, value in tags.items():
                self.client.set_model_version_tag(version.name, version.version_number, tag, value[:5000])
            self.client.update_model_version(version.name, version.version_number, description)

    def set_alias(self, alias: str, version: RegisteredVersion) -> None:
        """Give an alias to a version, and take it from any other."""
        with self.translate_errors():
            self.client.set_registered_model_alias(version.name, alias, version.version_number)

    def delete_alias(self, alias: str, name: str) -> None:
        """Remove an alias from the version that has it."""
        with self.translate_errors():
            self.client.delete_registered_model_alias(name, alias)

    def get_run(self, run_id: str) -> Run | None:
        """A run by its id."""
        with self.translate_errors(), _ignore_not_found():
            return self.client.get_run(run_id)
        return None

    def find_run_by_dir(self, folder: Path, experiment_name: str) -> Run | None:
        """Find the MLflow run of a run folder."""
        if not (known := read_run_key(folder)):
            return None
        key = sha256(known.encode()).hexdigest()
        with self.translate_errors():
            if not (found := self.client.get_experiment_by_name(experiment_name)):
                return None
            runs = self.client.search_runs([found.experiment_id], f"tags.`{RUN_KEY_TAG}` = '{key}'")
            return runs[0] if runs else None

    def get_dataset_root(self, run_id: str) -> str | None:
        """Get the dataset folder of a run from its logged inputs."""
        run = self.get_run(run_id)
        inputs = run.inputs.dataset_inputs if run and run.inputs else []
        sources = [one.dataset.source for one in inputs]
        for source in sources:
            try:
                uri = json.loads(source)["uri"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(uri, str):
                return uri.removeprefix("file://")
        return None

    def log_evaluation(
        self,
        run_id: str,
        values: Mapping[str, float],
        *,
        artifacts_dir: Path | None,
        artifact_path: str,
        at_ms: int,
        dataset_name_and_digest: tuple[str, str],
        model_id: str | None = None,
    ) -> None:
        """Note the figures of an evaluation, and copy its tables and plots to a run.

        `data` is the name of the data set and its digest.
        """
        name, digest = dataset_name_and_digest[0], dataset_name_and_digest[1][:36]
        metrics = [
            Metric(
                sanitize_metric_name(f"eval/{figure}"),
                value,
                at_ms,
                0,
                model_id,
                name,
                digest,
                run_id,
            )
            for figure, value in values.items()
        ]
        with self.translate_errors(), extend_request_timeout():
            self.client.log_batch(run_id, metrics=metrics, synchronous=True)
            if artifacts_dir:
                self.client.log_artifacts(run_id, str(artifacts_dir), artifact_path)

    def _to_registered_version(self, model_version: ModelVersion) -> RegisteredVersion:
        place = self.client.get_model_version_download_uri(model_version.name, str(model_version.version))
        return RegisteredVersion(
            model_version.name,
            str(model_version.version),
            model_version.run_id or "",
            place,
            model_version.tags,
        )

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Translate MLflow's errors into three lines."""
        try:
            yield
        except STORE_ERRORS as error:
            reason = " ".join(redact_secrets(str(error)).split())[:160]
            raise ClusterError(
                "the MLflow store does not answer",
                f"{self.redacted_uri}: {reason}",
                "start it, correct --tracking-uri, or leave it out to use the file in --storage-path",
            ) from error


@contextmanager
def extend_request_timeout() -> Iterator[None]:
    """Give a server time for large files: the usual limit is that of a training, in a hurry."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(UPLOAD_TIMEOUT_S)
    try:
        yield
    finally:
        os.environ[name] = before


@contextmanager
def _ignore_not_found() -> Iterator[None]:
    """Go on after the block where what it asks for is not there."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in _NOT_FOUND_CODES:
            raise

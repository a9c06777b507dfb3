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
from hrnet_ray.text import without_secrets
from hrnet_ray.tracking.mlflow_store import (  # before mlflow: it sets its limits
    FAILURES,
    KEY,
    allowed,
)
from hrnet_ray.tracking.run_record import known_key

os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

from mlflow import MlflowClient  # isort: skip
from mlflow.entities import Metric, Run  # isort: skip
from mlflow.entities.model_registry import ModelVersion  # isort: skip
from mlflow.exceptions import MlflowException  # isort: skip

CHAMPION, PREVIOUS, CHALLENGER = "champion", "previous", "challenger"
UPLOAD_S = 120
"""A server may take so long to put weights away. The end of a study waits for it, no training."""

_VERSION = re.compile(r"models:/(?P<name>[^/@:]+)(?:@(?P<alias>[\w.-]+)|/(?P<number>\d{1,9}))")
_NOT_THERE = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")


def registered_name(data_name: str) -> str:
    """Under which name the models of a data set compete."""
    return "hrnet-" + re.sub(r"[^\w.-]", "-", data_name)


@dataclass(frozen=True)
class Version:
    """A version of a registered model."""

    name: str
    number: str
    run_id: str
    place: str
    """Where its files are: a URI."""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} version {self.number}"

    @property
    def uri(self) -> str:
        return f"models:/{self.name}/{self.number}"


class Registry:
    """The models and runs of one MLflow store.

    Raises (every method):
        ClusterError: the store does not answer.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.said = without_secrets(address, {})
        """The address without name and password."""
        with self.answering():
            self.client = MlflowClient(address, address)

    def at(self, name: str, alias: str) -> Version | None:
        """The version that has an alias."""
        with self.answering(), _absent():
            return self._version(self.client.get_model_version_by_alias(name, alias))
        return None

    def named(self, uri: str) -> Version | None:
        """The version of `models:/NAME@ALIAS` or `models:/NAME/NUMBER`."""
        if not (said := _VERSION.fullmatch(uri)):
            return None
        if alias := said["alias"]:
            return self.at(said["name"], alias)
        with self.answering(), _absent():
            return self._version(self.client.get_model_version(said["name"], said["number"]))
        return None

    def alike(self, name: str, tags: Mapping[str, str]) -> Version | None:
        """The newest version with all these tags: the same model, registered before."""
        with self.answering():
            found = self.client.search_model_versions(f"name = '{name}'")
            same = [v for v in found if tags.items() <= v.tags.items()]
            newest = max(same, key=lambda v: int(v.version), default=None)
            return self._version(newest) if newest else None

    def register(
        self, name: str, *, run_id: str, model_id: str, place: str, tags: Mapping[str, str]
    ) -> Version:
        """Make a version of a logged model; it has no alias yet."""
        with self.answering():
            try:
                self.client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            made = self.client.create_model_version(
                name,
                place,
                run_id,
                tags=dict(tags),
                model_id=model_id,
                await_creation_for=0,  # it is there at once; MLflow would say that it waits
            )
            return self._version(made)

    def note(self, version: Version, tags: Mapping[str, str], description: str) -> None:
        """Write on a version what was found about it."""
        with self.answering():
            for tag, value in tags.items():
                self.client.set_model_version_tag(version.name, version.number, tag, value[:5000])
            self.client.update_model_version(version.name, version.number, description)

    def move(self, alias: str, version: Version) -> None:
        """Give an alias to a version, and take it from any other."""
        with self.answering():
            self.client.set_registered_model_alias(version.name, alias, version.number)

    def drop(self, alias: str, name: str) -> None:
        """Take an alias from whoever has it."""
        with self.answering():
            self.client.delete_registered_model_alias(name, alias)

    def run(self, run_id: str) -> Run | None:
        """A run by its id."""
        with self.answering(), _absent():
            return self.client.get_run(run_id)
        return None

    def run_of(self, folder: Path, experiment: str) -> Run | None:
        """The run that tells of a run folder."""
        if not (known := known_key(folder)):
            return None
        key = sha256(known.encode()).hexdigest()
        with self.answering():
            if not (found := self.client.get_experiment_by_name(experiment)):
                return None
            runs = self.client.search_runs([found.experiment_id], f"tags.`{KEY}` = '{key}'")
            return runs[0] if runs else None

    def data_root(self, run_id: str) -> str | None:
        """Where the data set of a run lay, as its inputs say."""
        run = self.run(run_id)
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
        files: Path | None,
        under: str,
        at_ms: int,
        data: tuple[str, str],
        model_id: str | None = None,
    ) -> None:
        """Note the figures of an evaluation, and copy its tables and plots to a run.

        `data` is the name of the data set and its digest.
        """
        name, digest = data[0], data[1][:36]
        metrics = [
            Metric(allowed(f"eval/{figure}"), value, at_ms, 0, model_id, name, digest, run_id)
            for figure, value in values.items()
        ]
        with self.answering(), patient():
            self.client.log_batch(run_id, metrics=metrics, synchronous=True)
            if files:
                self.client.log_artifacts(run_id, str(files), under)

    def _version(self, found: ModelVersion) -> Version:
        place = self.client.get_model_version_download_uri(found.name, str(found.version))
        return Version(found.name, str(found.version), found.run_id or "", place, found.tags)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Tell what MLflow raises in three lines."""
        try:
            yield
        except FAILURES as error:
            reason = " ".join(without_secrets(str(error)).split())[:160]
            raise ClusterError(
                "the MLflow store does not answer",
                f"{self.said}: {reason}",
                "start it, correct --tracking-uri, or leave it out to use the file in --storage",
            ) from error


@contextmanager
def patient() -> Iterator[None]:
    """Give a server time for large files: the usual limit is that of a training, in a hurry."""
    name = "MLFLOW_HTTP_REQUEST_TIMEOUT"
    before = os.environ[name]
    os.environ[name] = str(UPLOAD_S)
    try:
        yield
    finally:
        os.environ[name] = before


@contextmanager
def _absent() -> Iterator[None]:
    """Go on after the block where what it asks for is not there."""
    try:
        yield
    except MlflowException as error:
        if error.error_code not in _NOT_THERE:
            raise

"""One MLflow experiment, and the runs in it.

Runs are found by a tag and continued by id, never by "the active run", so trials cannot mix and a
repeated command appends to its own run. MLflow is told by the driver, from what the workers left in
`metrics.jsonl`: a training never waits for a server, and never fails because of one.
"""

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")  # 120 s x 8 tries by default
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")

from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from hrnet_ray.data import pictures
from hrnet_ray.errors import ClusterError, DataError

KEY = "hrnet.key"
FAILURES = (MlflowException, SQLAlchemyError, OSError)  # requests' errors are OSErrors
log = logging.getLogger("hrnet_ray.tracking")


def database_uri(storage: Path) -> str:
    """The MLflow store used where no server is named: a file in the storage folder."""
    return f"sqlite:///{storage.absolute() / 'mlflow.db'}"


@dataclass(frozen=True)
class Board:
    """One MLflow experiment: all runs on one data set, so that they can be compared."""

    tracking_uri: str
    experiment_id: str

    @classmethod
    def open(cls, data_name: str, *, storage: Path, tracking_uri: str | None) -> "Board":
        """Find or create the experiment `hrnet/<data set>`.

        The driver does this before anything else starts: several processes that create one
        database at a time break it.

        Raises:
            ClusterError: the server does not answer.
        """
        uri = tracking_uri or database_uri(storage)
        for chatty in ("alembic", "mlflow.store.db.utils"):
            logging.getLogger(chatty).setLevel(logging.WARNING)
        name = f"hrnet/{data_name}"
        with _answering(uri):
            if not tracking_uri:
                storage.mkdir(parents=True, exist_ok=True)
            client = MlflowClient(uri)
            if found := client.get_experiment_by_name(name):
                if found.lifecycle_stage == "deleted":  # in the UI; its name is still taken
                    client.restore_experiment(found.experiment_id)
                return cls(uri, found.experiment_id)
            place = None if tracking_uri else (storage.absolute() / "mlartifacts").as_uri()
            return cls(uri, client.create_experiment(name, artifact_location=place))


@dataclass(frozen=True)
class Run:
    """A handle on one MLflow run. Plain data, so it may travel to another process."""

    tracking_uri: str
    id: str

    @classmethod
    def open(
        cls,
        board: Board,
        *,
        key: str,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: "Run | None" = None,
    ) -> "Run":
        """Go on with the run that has this key, or start it and note its settings.

        Raises:
            ClusterError: the server does not answer.
        """
        digest = sha256(key.encode()).hexdigest()  # a path may hold quotes; a filter has no escape
        with _answering(board.tracking_uri):
            client = MlflowClient(board.tracking_uri)
            query = f"tags.`{KEY}` = '{digest}'"
            if found := client.search_runs([board.experiment_id], query, max_results=1):
                run_id = found[0].info.run_id
                client.update_run(run_id, status="RUNNING")
                return cls(board.tracking_uri, run_id)
            all_tags = {**tags, KEY: digest} | ({"mlflow.parentRunId": parent.id} if parent else {})
            made = client.create_run(board.experiment_id, run_name=name, tags=all_tags)
            noted = [Param(name, str(value)[:500]) for name, value in params.items()]
            client.log_batch(made.info.run_id, params=noted)
            return cls(board.tracking_uri, made.info.run_id)

    def log_data(self, *, name: str, digest: str, root: str) -> None:
        """Tie the run to the version of its data set."""
        with warnings.catch_warnings():  # two of MLflow's own readers claim local folders
            warnings.simplefilter("ignore", UserWarning)
            source = resolve_dataset_source(root)
        data = MetaDataset(source=source, name=name, digest=digest[:36])
        inputs = DatasetInput(
            data._to_mlflow_entity(), [InputTag("mlflow.data.context", "training")]
        )
        self._tell("log_inputs", self.id, [inputs])

    def log_epoch(self, metrics: Mapping[str, float], *, epoch: int, at_ms: int) -> None:
        """Note one epoch. Telling it again changes nothing: value, time and step are the same."""
        entries = [Metric(_allowed(n), value, at_ms, epoch) for n, value in metrics.items()]
        self._tell("log_batch", self.id, entries)

    def log_summary(self, values: Mapping[str, float], *, tags: Mapping[str, str]) -> None:
        """Note what the whole run came to, and mark it."""
        now = int(time.time() * 1000)
        entries = [Metric(_allowed(name), value, now, 0) for name, value in values.items()]
        marks = [RunTag(name, value) for name, value in tags.items()]
        self._tell("log_batch", self.id, entries, (), marks)

    def log_picture(self, path: Path, *, name: str, epoch: int) -> None:
        """Show a picture with a slider over epochs."""
        try:
            picture = pictures.read(path)
        except DataError as error:
            log.warning("MLflow missed a picture (%s: %s)", error.where, error.what)
            return
        self._tell("log_image", self.id, picture, key=name, step=epoch, synchronous=True)

    def log_folder(self, folder: Path, *, only: tuple[str, ...]) -> None:
        """Copy files and folders of the run's own tree, under the same names."""
        for name in only:
            path = folder / name
            if path.is_dir():
                self._tell("log_artifacts", self.id, str(path), name)
            elif path.is_file():
                self._tell("log_artifact", self.id, str(path), str(Path(name).parent).strip("."))

    def finish(self, status: str) -> None:
        """FINISHED, FAILED or KILLED."""
        self._tell("set_terminated", self.id, status)

    def _tell(self, what: str, *args: Any, **kwargs: Any) -> None:
        try:
            getattr(MlflowClient(self.tracking_uri), what)(*args, **kwargs)
        except FAILURES as error:
            reason = " ".join(str(error).split())[:160]
            log.warning("MLflow missed a %s (%s); the run folder has it all", what, reason)


def _allowed(name: str) -> str:
    """A metric's name as MLflow takes it: keypoints are named by people (`eye (left)`)."""
    group, slash, rest = name.partition("/")
    plain = re.sub(r"[^\w.\- :]", "_", rest)[: 250 - len(group)]
    return group + slash + plain


@contextmanager
def _answering(uri: str) -> Iterator[None]:
    try:
        yield
    except FAILURES as error:
        raise ClusterError(
            "the MLflow store does not answer",
            f"{uri}: {' '.join(str(error).split())[:160]}",
            "start it, correct --cluster.tracking-uri, or leave it out to use a local file",
        ) from error

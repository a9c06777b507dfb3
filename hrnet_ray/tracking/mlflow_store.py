"""One MLflow server or database: the only module that imports mlflow.

Syncing is idempotent: runs are found by a tag, metrics have the time of their line, images and files
keep their names.
"""

import logging
import os
import re
import secrets
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")  # 120 s x 8 tries by default
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")

from mlflow import MlflowClient
from mlflow.data.dataset_source_registry import resolve_dataset_source
from mlflow.data.meta_dataset import MetaDataset
from mlflow.entities import DatasetInput, InputTag, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking.multimedia import compress_image_size
from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from hrnet_ray.data.images import codec
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking.run_history import EpochImage, MetricPoint
from hrnet_ray.tracking.run_record import DatasetVersion, RunRecord

RUN_KEY_TAG = "hrnet.key"
MAX_METRICS_PER_REQUEST = 900  # numbers in a request; MLflow takes 1,000
MAX_PARAM_LENGTH, MAX_TAG_LENGTH, MAX_DIGEST_LENGTH = (
    500,
    5000,
    36,
)  # what MLflow keeps of them, or less
MAX_IMAGE_BYTES = 300_000  # bytes
MAX_PREVIEW_PX = 1024
"""Longer side of the copy that the page shows; MLflow's own 256 leave a crop of sixteen 64."""
ALREADY_EXISTS_CODE = "RESOURCE_ALREADY_EXISTS"
DUPLICATE_ROW_PATTERN = re.compile("IntegrityError|UniqueViolation|Duplicate entry")
"""Errors of SQLite, PostgreSQL and MySQL for a row that another client inserted first."""
RUN_DELETED_MESSAGE = "Current state is deleted"
STORE_ERRORS = (MlflowException, SQLAlchemyError, OSError)  # requests' errors are OSErrors
NOISY_LOGGERS = ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool")

logger = logging.getLogger("hrnet_ray.tracking")


class RunDeletedError(ClusterError):
    """A run that was there is deleted: of two that were made in the same moment, one is kept."""


class MlflowStore:
    """Writes runs to one MLflow store.

    Raises (every method):
        ClusterError: it does not answer, or refuses.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self.redacted_uri = redact_secrets(tracking_uri, {})
        """The address without name and password."""
        self.stopped = False
        """Create no run any more; the process that syncs the rest creates it."""
        for chatty in NOISY_LOGGERS:
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self._experiment_ids: dict[str, str] = {}
        with self._translate_errors():
            _create_database(tracking_uri)
            self.client = MlflowClient(tracking_uri)

    def get_or_create_run(self, record: RunRecord, *, parent_run_id: str | None) -> tuple[str, set[str]]:
        """The run that has the story's key, or a new one; and the params that it has already."""
        with self._translate_errors():
            experiment = self._get_experiment_id(record.experiment_name)
            run = self._find_unique_run(experiment, record.run_key) or self._create_run(
                experiment, record, parent_run_id
            )
            return run.info.run_id, set(run.data.params)

    def log_metrics(self, run_id: str, points: Sequence[MetricPoint]) -> None:
        """Note numbers; twice is once."""
        metrics = [Metric(sanitize_metric_name(p.name), p.value, p.at_ms, p.step) for p in points]
        with self._translate_errors():
            for start in range(0, len(metrics), MAX_METRICS_PER_REQUEST):
                part = metrics[start : start + MAX_METRICS_PER_REQUEST]
                _retry_on_conflict(self.client.log_batch, run_id, metrics=part, synchronous=True)

    def log_params_and_tags(
        self,
        run_id: str,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        removed_tags: Sequence[str] = (),
    ) -> None:
        """Note settings and tags, and take back the tags that are gone."""
        settings = [Param(name, value[:MAX_PARAM_LENGTH]) for name, value in params.items()]
        labels = [RunTag(sanitize_metric_name(name), value[:MAX_TAG_LENGTH]) for name, value in tags.items()]
        with self._translate_errors():
            if settings or labels:
                _retry_on_conflict(self.client.log_batch, run_id, params=settings, tags=labels, synchronous=True)
            there = self.client.get_run(run_id).data.tags if removed_tags else {}
            for name in {sanitize_metric_name(name) for name in removed_tags} & there.keys():
                self.client.delete_tag(run_id, name)

    def log_inputs(self, run_id: str, datasets: Sequence[DatasetVersion]) -> None:
        """Tie a run to the versions of what it was made from."""
        with self._translate_errors():
            _retry_on_conflict(self.client.log_inputs, run_id, [_to_dataset_input(version) for version in datasets])

    def log_image(self, run_id: str, image: EpochImage, *, at_ms: int) -> None:
        """Log an image with a slider over epochs, under a fixed name.

        MLflow's own `log_image` makes a new name each time, so a repeated sync would add a copy.
        """
        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {image.name} {image.epoch}")
        group = image.name.replace("/", "~")
        name = f"{group}+step+{image.epoch}+timestamp+{at_ms}+{same}"
        try:
            whole = Image.fromarray(codec.read_image(image.path))
        except DataError as error:
            logger.warning("MLflow missed an image (%s: %s)", error.where, error.what)
            return
        with self._translate_errors(), tempfile.TemporaryDirectory() as folder:
            _save_compressed_png(whole, Path(folder) / f"{name}.png")
            _create_preview(whole).save(Path(folder) / f"{name}+compressed.webp")
            self.client.log_artifacts(run_id, folder, "images")
            _retry_on_conflict(self.client.set_tag, run_id, "mlflow.loggedImages", "True")

    def log_artifact(self, run_id: str, path: Path, *, artifact_path: str) -> None:
        """Copy a file into a folder of the run's artifacts."""
        with self._translate_errors():
            self.client.log_artifact(run_id, str(path), artifact_path)

    def set_run_status(self, run_id: str, record: RunRecord) -> None:
        """Set the status and end time of a run, and merge a duplicate run into it."""
        with self._translate_errors():
            if record.ended_ms is None or record.status == "RUNNING":
                self.client.update_run(run_id, status=record.status)
                return
            self.client.set_terminated(run_id, record.status, end_time=record.ended_ms)
            self._find_unique_run(self._get_experiment_id(record.experiment_name), record.run_key)

    def _get_experiment_id(self, name: str) -> str:
        if name not in self._experiment_ids:
            self._experiment_ids[name] = self._get_or_create_experiment(name)
        return self._experiment_ids[name]

    def _get_or_create_experiment(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage == "deleted":  # in the UI; its name is still taken
                self.client.restore_experiment(found.experiment_id)
            return found.experiment_id
        place = _get_artifact_root(self._tracking_uri)
        try:
            return self.client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            made = self.client.get_experiment_by_name(name)
            if error.error_code != ALREADY_EXISTS_CODE or made is None:
                raise
            return made.experiment_id  # by another command, or by a request that seemed to be lost

    def _find_unique_run(self, experiment_id: str, key: str) -> Run | None:
        """The first run with this key. Any other was made by a request that seemed to be lost."""
        found = self.client.search_runs([experiment_id], f"tags.`{RUN_KEY_TAG}` = '{_hash_run_key(key)}'")
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for more in found[1:]:
            self.client.delete_run(more.info.run_id)
        return found[0] if found else None

    def _create_run(self, experiment_id: str, record: RunRecord, parent_run_id: str | None) -> Run:
        if self.stopped:
            raise OSError("given up while it did not answer")
        tags = {RUN_KEY_TAG: _hash_run_key(record.run_key)} | (
            {"mlflow.parentRunId": parent_run_id} if parent_run_id else {}
        )
        made = self.client.create_run(experiment_id, run_name=record.name, start_time=record.started_ms, tags=tags)
        return self._find_unique_run(experiment_id, record.run_key) or made

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except STORE_ERRORS as error:
            self._experiment_ids.clear()  # it may come back as another one
            reason = _summarize_error(redact_secrets(str(error)))
            kind = RunDeletedError if RUN_DELETED_MESSAGE in str(error) else ClusterError
            raise kind(
                "the MLflow store does not answer",
                f"{self.redacted_uri}: {reason}",
                "start it, correct --cluster.tracking-uri, or leave it out to use a local file",
            ) from error


def _retry_on_conflict(request: Callable[..., object], *args: Any, **kwargs: Any) -> None:
    """Repeat a request that collided with another client's.

    A request that timed out may still be carried out. Both then find a row missing, both insert
    it, and the slower one is refused with its whole content.
    """
    try:
        request(*args, **kwargs)
    except MlflowException as error:
        if not DUPLICATE_ROW_PATTERN.search(str(error)):
            raise
        request(*args, **kwargs)


def _summarize_error(message: str) -> str:
    """MLflow wraps what happened in three exceptions and an address."""
    if known := re.search(r"Connection refused|[Tt]imed out|too many \d+ error responses", message):
        return known[0].lower()
    return " ".join(message.split())[:160]


def sanitize_metric_name(name: str) -> str:
    """A name as MLflow takes it: keypoints are named by people (`eye (left)`)."""
    group, slash, rest = name.partition("/")
    plain = re.sub(r"[^\w.\- :]", "_", rest)[: 250 - len(group)]
    return group + slash + plain


def _hash_run_key(key: str) -> str:
    """A path may hold quotes, and a filter has no escape for them."""
    return sha256(key.encode()).hexdigest()


def _parse_sqlite_path(tracking_uri: str) -> Path | None:
    scheme, found, path = tracking_uri.partition("sqlite:///")
    return Path(path) if found and not scheme else None


def _create_database(tracking_uri: str) -> None:
    """Create a missing database file, complete or not at all.

    MLflow creates its tables in dozens of steps. Two processes that do so at once, or one that is
    killed between them, leave an unusable file.
    """
    path = _parse_sqlite_path(tracking_uri)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        SqlAlchemyStore(f"sqlite:///{part}", _get_artifact_root(tracking_uri)).engine.dispose()
        try:
            os.link(part, path)
        except FileExistsError:
            return  # another one was quicker
        except OSError:  # a file system without links
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _get_artifact_root(tracking_uri: str) -> str | None:
    """Beside a database file; a server has a place of its own."""
    database = _parse_sqlite_path(tracking_uri)
    return (database.absolute().parent / "mlartifacts").as_uri() if database else None


def _to_dataset_input(dataset_version: DatasetVersion) -> DatasetInput:
    with warnings.catch_warnings():  # two of MLflow's own readers claim local folders
        warnings.simplefilter("ignore", UserWarning)
        source = resolve_dataset_source(dataset_version.root)
    data = MetaDataset(source=source, name=dataset_version.name, digest=dataset_version.digest[:MAX_DIGEST_LENGTH])
    context = InputTag("mlflow.data.context", dataset_version.context)
    return DatasetInput(data._to_mlflow_entity(), [context])


def _save_compressed_png(image: Image.Image, path: Path) -> None:
    """As it is; a large one with 256 colours, and if need be in half its size, and again."""
    image.save(path)
    while path.stat().st_size > MAX_IMAGE_BYTES:
        image.quantize(256).save(path)
        image = image.resize((max(1, image.width // 2), max(1, image.height // 2)))


def _create_preview(image: Image.Image) -> Image.Image:
    """The copy for the page, which is not larger than the image."""
    return compress_image_size(image, min(MAX_PREVIEW_PX, max(image.size)))

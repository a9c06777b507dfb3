"""One MLflow server or database: the only module that imports mlflow.

Whatever is told twice is there once: runs are found by a tag, numbers have the time of their line,
pictures and files keep their names.
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
from hrnet_ray.text import without_secrets
from hrnet_ray.tracking.run_history import Picture, Point
from hrnet_ray.tracking.run_record import DataVersion, Story

KEY = "hrnet.key"
AT_ONCE = 900  # numbers in a request; MLflow takes 1,000
PARAM_LENGTH, TAG_LENGTH, DIGEST_LENGTH = 500, 5000, 36  # what MLflow keeps of them, or less
LARGEST_PICTURE = 300_000  # bytes
SHOWN_PX = 1024
"""Longer side of the copy that the page shows; MLflow's own 256 leave a crop of sixteen 64."""
ALREADY_THERE = "RESOURCE_ALREADY_EXISTS"
AT_THE_SAME_TIME = re.compile("IntegrityError|UniqueViolation|Duplicate entry")
"""How SQLite, PostgreSQL and MySQL say that a row has been inserted by another one."""
DELETED = "Current state is deleted"
FAILURES = (MlflowException, SQLAlchemyError, OSError)  # requests' errors are OSErrors
CHATTY = ("alembic", "mlflow.store.db.utils", "urllib3.connectionpool")

log = logging.getLogger("hrnet_ray.tracking")


class RunIsGone(ClusterError):
    """A run that was there is deleted: of two that were made in the same moment, one is kept."""


class Server:
    """Tells one MLflow store.

    Raises (every method):
        ClusterError: it does not answer, or refuses.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.name = without_secrets(address, {})
        """The address without name and password."""
        self.silent = False
        """Make no run any more: whoever tells the rest makes it."""
        for chatty in CHATTY:
            logging.getLogger(chatty).setLevel(logging.ERROR)
        self._experiments: dict[str, str] = {}
        with self._answering():
            _make_database(address)
            self.client = MlflowClient(address)

    def run_of(self, story: Story, *, parent: str | None) -> tuple[str, set[str]]:
        """The run that has the story's key, or a new one; and the params that it has already."""
        with self._answering():
            experiment = self._experiment(story.experiment)
            run = self._only(experiment, story.key) or self._made(experiment, story, parent)
            return run.info.run_id, set(run.data.params)

    def numbers(self, run_id: str, points: Sequence[Point]) -> None:
        """Note numbers; twice is once."""
        metrics = [Metric(allowed(p.name), p.value, p.at_ms, p.step) for p in points]
        with self._answering():
            for start in range(0, len(metrics), AT_ONCE):
                part = metrics[start : start + AT_ONCE]
                _settled(self.client.log_batch, run_id, metrics=part, synchronous=True)

    def marks(
        self,
        run_id: str,
        *,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        gone: Sequence[str] = (),
    ) -> None:
        """Note settings and tags, and take back the tags that are gone."""
        settings = [Param(name, value[:PARAM_LENGTH]) for name, value in params.items()]
        labels = [RunTag(allowed(name), value[:TAG_LENGTH]) for name, value in tags.items()]
        with self._answering():
            if settings or labels:
                _settled(
                    self.client.log_batch, run_id, params=settings, tags=labels, synchronous=True
                )
            there = self.client.get_run(run_id).data.tags if gone else {}
            for name in {allowed(name) for name in gone} & there.keys():
                self.client.delete_tag(run_id, name)

    def data(self, run_id: str, versions: Sequence[DataVersion]) -> None:
        """Tie a run to the versions of what it was made from."""
        with self._answering():
            _settled(self.client.log_inputs, run_id, [_input(version) for version in versions])

    def picture(self, run_id: str, picture: Picture, *, at_ms: int) -> None:
        """Show a picture with a slider over epochs, under a name that is always the same.

        MLflow's own `log_image` draws a new name each time: told twice, it would be there twice.
        """
        same = uuid.uuid5(uuid.NAMESPACE_OID, f"{run_id} {picture.name} {picture.epoch}")
        group = picture.name.replace("/", "~")
        name = f"{group}+step+{picture.epoch}+timestamp+{at_ms}+{same}"
        try:
            whole = Image.fromarray(codec.read(picture.path))
        except DataError as error:
            log.warning("MLflow missed a picture (%s: %s)", error.where, error.what)
            return
        with self._answering(), tempfile.TemporaryDirectory() as folder:
            _save_small(whole, Path(folder) / f"{name}.png")
            _shown(whole).save(Path(folder) / f"{name}+compressed.webp")
            self.client.log_artifacts(run_id, folder, "images")
            _settled(self.client.set_tag, run_id, "mlflow.loggedImages", "True")

    def file(self, run_id: str, path: Path, *, under: str) -> None:
        """Copy a file into a folder of the run's artifacts."""
        with self._answering():
            self.client.log_artifact(run_id, str(path), under)

    def end(self, run_id: str, story: Story) -> None:
        """Say how the run ended, or that it goes on; and leave no second one beside it."""
        with self._answering():
            if story.ended_ms is None or story.status == "RUNNING":
                self.client.update_run(run_id, status=story.status)
                return
            self.client.set_terminated(run_id, story.status, end_time=story.ended_ms)
            self._only(self._experiment(story.experiment), story.key)

    def _experiment(self, name: str) -> str:
        if name not in self._experiments:
            self._experiments[name] = self._found_or_made(name)
        return self._experiments[name]

    def _found_or_made(self, name: str) -> str:
        if found := self.client.get_experiment_by_name(name):
            if found.lifecycle_stage == "deleted":  # in the UI; its name is still taken
                self.client.restore_experiment(found.experiment_id)
            return found.experiment_id
        place = _artifacts_of(self._address)
        try:
            return self.client.create_experiment(name, artifact_location=place)
        except MlflowException as error:
            made = self.client.get_experiment_by_name(name)
            if error.error_code != ALREADY_THERE or made is None:
                raise
            return made.experiment_id  # by another command, or by a request that seemed to be lost

    def _only(self, experiment: str, key: str) -> Run | None:
        """The first run with this key. Any other was made by a request that seemed to be lost."""
        found = self.client.search_runs([experiment], f"tags.`{KEY}` = '{_digest(key)}'")
        found = sorted(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for more in found[1:]:
            self.client.delete_run(more.info.run_id)
        return found[0] if found else None

    def _made(self, experiment: str, story: Story, parent: str | None) -> Run:
        if self.silent:
            raise OSError("given up while it did not answer")
        tags = {KEY: _digest(story.key)} | ({"mlflow.parentRunId": parent} if parent else {})
        made = self.client.create_run(
            experiment, run_name=story.name, start_time=story.began_ms, tags=tags
        )
        return self._only(experiment, story.key) or made

    @contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            self._experiments.clear()  # it may come back as another one
            reason = _in_short(without_secrets(str(error)))
            kind = RunIsGone if DELETED in str(error) else ClusterError
            raise kind(
                "the MLflow store does not answer",
                f"{self.name}: {reason}",
                "start it, correct --cluster.tracking-uri, or leave it out to use a local file",
            ) from error


def _settled(tell: Callable[..., object], *what: Any, **more: Any) -> None:
    """Tell once more what somebody else told in the same moment.

    A request that was given up may still be carried out. Both then find a row missing, both insert
    it, and the slower one is refused, with all that it had to say.
    """
    try:
        tell(*what, **more)
    except MlflowException as error:
        if not AT_THE_SAME_TIME.search(str(error)):
            raise
        tell(*what, **more)


def _in_short(reason: str) -> str:
    """MLflow wraps what happened in three exceptions and an address."""
    if known := re.search(r"Connection refused|[Tt]imed out|too many \d+ error responses", reason):
        return known[0].lower()
    return " ".join(reason.split())[:160]


def allowed(name: str) -> str:
    """A name as MLflow takes it: keypoints are named by people (`eye (left)`)."""
    group, slash, rest = name.partition("/")
    plain = re.sub(r"[^\w.\- :]", "_", rest)[: 250 - len(group)]
    return group + slash + plain


def _digest(key: str) -> str:
    """A path may hold quotes, and a filter has no escape for them."""
    return sha256(key.encode()).hexdigest()


def _database_of(address: str) -> Path | None:
    scheme, found, path = address.partition("sqlite:///")
    return Path(path) if found and not scheme else None


def _make_database(address: str) -> None:
    """Make a database file that is not there yet: whole, or not at all.

    MLflow makes its tables in dozens of steps. Two that do so at once, or one that is killed
    between them, leave a file that nobody can use any more.
    """
    path = _database_of(address)
    if path is None or path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        SqlAlchemyStore(f"sqlite:///{part}", _artifacts_of(address)).engine.dispose()
        try:
            os.link(part, path)
        except FileExistsError:
            return  # another one was quicker
        except OSError:  # a file system without links
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _artifacts_of(address: str) -> str | None:
    """Beside a database file; a server has a place of its own."""
    database = _database_of(address)
    return (database.absolute().parent / "mlartifacts").as_uri() if database else None


def _input(version: DataVersion) -> DatasetInput:
    with warnings.catch_warnings():  # two of MLflow's own readers claim local folders
        warnings.simplefilter("ignore", UserWarning)
        source = resolve_dataset_source(version.root)
    data = MetaDataset(source=source, name=version.name, digest=version.digest[:DIGEST_LENGTH])
    context = InputTag("mlflow.data.context", version.context)
    return DatasetInput(data._to_mlflow_entity(), [context])


def _save_small(picture: Image.Image, path: Path) -> None:
    """As it is; a large one with 256 colours, and if need be in half its size, and again."""
    picture.save(path)
    while path.stat().st_size > LARGEST_PICTURE:
        picture.quantize(256).save(path)
        picture = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)))


def _shown(picture: Image.Image) -> Image.Image:
    """The copy for the page, which is not larger than the picture."""
    return compress_image_size(picture, min(SHOWN_PX, max(picture.size)))

"""What MLflow is told, read back from a real store; and a server that is not there."""

import logging
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from hrnet_ray.data import pictures
from hrnet_ray.errors import ClusterError
from hrnet_ray.tracking import Board, Run, database_uri


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an empty store; making its tables takes seconds, so all tests share it."""
    return tmp_path_factory.mktemp("it's") / "storage"


@pytest.fixture
def board(storage: Path, request: pytest.FixtureRequest) -> Board:
    """An experiment of the test's own."""
    return Board.open(request.node.name, storage=storage, tracking_uri=None)


@pytest.fixture
def dead_uri() -> Iterator[str]:
    """An address of this machine at which nobody listens."""
    with socket.socket() as taken:  # bound, never listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


def client(board: Board) -> MlflowClient:
    return MlflowClient(board.tracking_uri)


def opened(board: Board, key: str = "/runs/otters/first", **more) -> Run:
    told = {"name": "first", "params": {"optim.lr": 1e-3}, "tags": {"kind": "train"}}
    return Run.open(board, **{"key": key, **told, **more})


def test_the_store_is_a_file_in_the_storage_folder_and_found_again(storage: Path, board: Board):
    again = Board.open(
        "test_the_store_is_a_file_in_the_storage_folder_and_found_again",
        storage=storage,
        tracking_uri=None,
    )

    assert again == board
    assert board.tracking_uri == database_uri(storage)
    assert (storage / "mlflow.db").is_file()
    assert client(board).get_experiment(board.experiment_id).name.startswith("hrnet/test_the_store")


def test_a_run_notes_its_name_settings_and_tags(board: Board):
    run = opened(board, params={"optim.lr": 1e-3, "data.input_hw": (96, 128), "long": "x" * 900})

    noted = client(board).get_run(run.id)
    assert noted.info.run_name == "first"
    assert noted.info.status == "RUNNING"
    assert noted.data.params == {
        "optim.lr": "0.001",
        "data.input_hw": "(96, 128)",
        "long": "x" * 500,
    }
    assert noted.data.tags["kind"] == "train"


@pytest.mark.parametrize("key", ["/runs/otters/first", '/home/o\'brien/"runs"/100%'])
def test_a_run_is_found_again_by_its_key_and_goes_on(board: Board, key: str):
    first = opened(board, key)
    first.log_epoch({"val/OKS_AP": 0.25}, epoch=0, at_ms=1_000)
    first.finish("FAILED")

    again = opened(board, key, name="another name", params={"optim.lr": 9.9})
    again.log_epoch({"val/OKS_AP": 0.25}, epoch=0, at_ms=1_000)  # told twice
    again.log_epoch({"val/OKS_AP": 0.5}, epoch=1, at_ms=2_000)

    assert again == first
    points = client(board).get_metric_history(first.id, "val/OKS_AP")
    assert [(point.step, point.value, point.timestamp) for point in points] == [
        (0, 0.25, 1_000),
        (1, 0.5, 2_000),
    ]
    noted = client(board).get_run(first.id)
    assert noted.info.status == "RUNNING"
    assert noted.data.params == {"optim.lr": "0.001"}


@pytest.mark.parametrize(
    ("keypoint", "kept"),
    [("eye (left)", "eye _left_"), ("../../x", ".._.._x"), ("a@b;c", "a_b_c"), ("œil", "œil")],
)
def test_keypoints_of_any_name_have_their_metric(board: Board, keypoint: str, kept: str):
    run = opened(board)

    run.log_epoch({f"val/OKS.{keypoint}": 0.5}, epoch=0, at_ms=1_000)

    (metric,) = MlflowClient(run.tracking_uri).get_run(run.id).data.metrics
    assert metric == f"val/OKS.{kept}"


def test_another_key_is_another_run_and_a_trial_knows_its_sweep(board: Board):
    sweep = opened(board, "/runs/otters/sweep")

    trial = opened(board, "/runs/otters/sweep/trials/00", parent=sweep)

    assert trial.id != sweep.id
    assert client(board).get_run(trial.id).data.tags["mlflow.parentRunId"] == sweep.id
    assert "mlflow.parentRunId" not in client(board).get_run(sweep.id).data.tags


def test_a_run_is_tied_to_its_data_once(board: Board, tmp_path: Path):
    run, digest = opened(board), "0123456789abcdef" * 4
    for _ in range(2):
        run.log_data(name="otters", digest=digest, root=str(tmp_path))

    inputs = client(board).get_run(run.id).inputs
    assert inputs is not None
    (tied,) = inputs.dataset_inputs
    assert (tied.dataset.name, tied.dataset.digest) == ("otters", digest[:36])
    assert str(tmp_path) in tied.dataset.source
    assert [(tag.key, tag.value) for tag in tied.tags] == [("mlflow.data.context", "training")]


def test_a_picture_is_kept_at_its_epoch(board: Board, tmp_path: Path):
    run, picture = opened(board), np.full((24, 36, 3), (200, 40, 90), np.uint8)
    pictures.write(tmp_path / "crops.png", picture)

    run.log_picture(tmp_path / "crops.png", name="val/fixed16", epoch=7)

    names = [file.path for file in client(board).list_artifacts(run.id, "images")]
    (name,) = [name for name in names if name.endswith(".png")]
    assert name.startswith("images/val~fixed16+step+7+")  # as the UI's slider wants it
    kept = client(board).download_artifacts(run.id, name, str(tmp_path))
    assert np.array_equal(pictures.read(Path(kept)), picture)


def test_a_picture_that_is_not_whole_is_only_a_warning(
    board: Board, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    run = opened(board)
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n")

    with caplog.at_level(logging.WARNING, "hrnet_ray.tracking"):
        run.log_picture(tmp_path / "half.png", name="val/fixed16", epoch=0)

    assert caplog.messages[0].startswith(f"MLflow missed a picture ({tmp_path / 'half.png'}")
    assert client(board).list_artifacts(run.id, "images") == []


def test_the_runs_own_tree_is_copied_under_the_same_names(board: Board, tmp_path: Path):
    (tmp_path / "plots" / "fixed16").mkdir(parents=True)
    (tmp_path / "plots" / "fixed16" / "a.txt").write_text("a")
    (tmp_path / "summary.json").write_text("{}")
    (tmp_path / "ray").mkdir()
    run = opened(board)

    run.log_folder(tmp_path, only=("summary.json", "plots", "model"))

    artifacts = client(board)
    assert [file.path for file in artifacts.list_artifacts(run.id)] == ["plots", "summary.json"]
    (file,) = artifacts.list_artifacts(run.id, "plots/fixed16")
    assert file.path == "plots/fixed16/a.txt"


def test_a_finished_run_has_its_summary_tags_and_status(board: Board):
    run = opened(board)

    run.log_summary({"best/OKS_AP": 0.75}, tags={"best": "yes"})
    run.finish("FINISHED")

    noted = client(board).get_run(run.id)
    assert noted.data.metrics == {"best/OKS_AP": 0.75}
    assert noted.data.tags["best"] == "yes"
    assert noted.info.status == "FINISHED"


def test_an_experiment_deleted_in_the_ui_comes_back(storage: Path, board: Board):
    client(board).delete_experiment(board.experiment_id)

    again = Board.open(
        "test_an_experiment_deleted_in_the_ui_comes_back", storage=storage, tracking_uri=None
    )

    assert again == board
    assert client(board).get_run(opened(again).id).info.lifecycle_stage == "active"


def test_a_server_that_refuses_is_named_in_three_lines_within_seconds(
    dead_uri: str, tmp_path: Path
):
    started = time.monotonic()

    with pytest.raises(ClusterError) as refused:
        Board.open("otters", storage=tmp_path, tracking_uri=dead_uri)

    assert time.monotonic() - started < 15
    what, where, fix = str(refused.value).splitlines()
    assert what == "the MLflow store does not answer"
    assert where.startswith(f"  {dead_uri}: ")
    assert fix == (
        "  fix: start it, correct --cluster.tracking-uri, or leave it out to use a local file"
    )
    assert refused.value.exit_code == 4


def test_a_file_that_is_no_store_is_refused_too(tmp_path: Path):
    (tmp_path / "mlflow.db").write_bytes(b"not a database, and far too short to be one" * 30)

    with pytest.raises(ClusterError, match="the MLflow store does not answer"):
        Board.open("otters", storage=tmp_path, tracking_uri=None)


def test_a_server_that_goes_away_costs_a_warning_and_no_training(
    dead_uri: str, caplog: pytest.LogCaptureFixture
):
    started = time.monotonic()

    with caplog.at_level(logging.WARNING, "hrnet_ray.tracking"):
        Run(dead_uri, "0" * 32).log_epoch({"train/loss": 0.5}, epoch=3, at_ms=1_000)

    assert time.monotonic() - started < 15
    (message,) = [r.getMessage() for r in caplog.records if r.name == "hrnet_ray.tracking"]
    assert message.startswith("MLflow missed a log_batch (")
    assert message.endswith("); the run folder has it all")


def test_a_run_cannot_be_opened_on_a_server_that_went_away(dead_uri: str):
    with pytest.raises(ClusterError, match="the MLflow store does not answer"):
        opened(Board(dead_uri, "1"))

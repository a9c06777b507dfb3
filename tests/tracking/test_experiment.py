"""What the driver says of runs, read back from a real store; and a server that is not there."""

import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from mlflow import MlflowClient

from hrnet_ray.data.images import codec
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.tracking import MlflowExperiment, default_tracking_uri, experiment as board_module
from hrnet_ray.tracking.mlflow_store import sanitize_metric_name
from hrnet_ray.tracking.sync_command import sync_runs
from hrnet_ray.tracking.sync_run import count_unsynced
from tests.tracking.runs import DIGEST, begun, found, history, images, recorded, train


@pytest.fixture
def board(storage: Path) -> MlflowExperiment:
    """An experiment in a file."""
    return MlflowExperiment.open_for_dataset("otters", storage_dir=storage, tracking_uri=None)


@pytest.fixture
def folder(storage: Path) -> Path:
    """Where a run is."""
    return storage / "otters" / "first"


def test_the_store_is_a_file_in_the_storage_folder(storage: Path):
    assert default_tracking_uri(storage) == f"sqlite:///{storage}/mlflow.db"


def test_a_run_has_its_name_settings_tags_and_data(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder, params={"optim.lr": 1e-3, "data.input_hw": (96, 128)})
    run.log_summary({"best.OKS_AP": 0.75}, tags={"best": "yes"})
    run.finish_run("FINISHED")

    (noted,) = found(default_tracking_uri(storage), "otters")
    assert noted.info.run_name == "first"
    assert noted.info.status == "FINISHED"
    assert noted.data.params == {"optim.lr": "0.001", "data.input_hw": "(96, 128)"}
    assert noted.data.tags["kind"] == "train"
    assert noted.data.tags["best"] == "yes"
    assert noted.data.metrics["best.OKS_AP"] == 0.75
    assert {(tied.dataset.name, tied.dataset.digest, tied.tags[0].value) for tied in noted.inputs.dataset_inputs} == {
        ("otters-train", DIGEST[:36], "train"),
        ("otters-val", DIGEST[:36], "val"),
    }


def test_the_machine_is_watched_while_a_run_goes_on(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder)
    run.finish_run("FINISHED")

    (noted,) = found(default_tracking_uri(storage), "otters")
    assert 0 < noted.data.metrics["system/system_memory_usage_percentage"] <= 100
    assert 0 <= noted.data.metrics["system/cpu_utilization_percentage"] <= 100


def test_a_run_is_found_again_by_its_folder_and_goes_on(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder)
    train(folder, 0)
    run.finish_run("FAILED")
    train(folder, 1)

    again = MlflowExperiment.open_for_dataset("otters", storage_dir=storage, tracking_uri=None)
    run = begun(again, folder, name="another", params={"optim.lr": 9.9}, tags={"kind": "again"})
    run.finish_run("FINISHED")

    (noted,) = found(default_tracking_uri(storage), "otters")
    assert history(default_tracking_uri(storage), noted.info.run_id) == recorded(folder)
    assert noted.info.run_name == "first"
    assert noted.info.status == "FINISHED"
    assert noted.data.params == {"optim.lr": "0.001"}  # MLflow changes no params
    assert noted.data.tags["kind"] == "again"


def test_a_trial_knows_its_study(board: MlflowExperiment, folder: Path, storage: Path):
    study = begun(board, folder)
    trial = begun(board, folder / "trials" / "01", parent_run=study, name="#01")
    trial.finish_run("FINISHED")
    study.finish_run("FINISHED")

    parent, child = sorted(
        found(default_tracking_uri(storage), "otters"),
        key=lambda run: run.info.run_name,
        reverse=True,
    )
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert "mlflow.parentRunId" not in parent.data.tags


@pytest.mark.parametrize(
    ("keypoint", "kept"),
    [("eye (left)", "eye _left_"), ("../../x", ".._.._x"), ("a@b;c", "a_b_c"), ("œil", "œil")],
)
def test_keypoints_of_any_name_have_their_metric(keypoint: str, kept: str):
    assert sanitize_metric_name(f"val/OKS.{keypoint}") == f"val/OKS.{kept}"


def test_a_picture_is_kept_at_its_epoch_under_one_name(
    board: MlflowExperiment, folder: Path, storage: Path, tmp_path: Path
):
    run = begun(board, folder)
    train(folder, 7)
    run.finish_run("FINISHED")
    (folder / ".mlflow/sync_state.json").unlink()
    list(sync_runs(folder))  # told twice

    uri = default_tracking_uri(storage)
    (noted,) = found(uri, "otters")
    (name,) = images(uri, noted.info.run_id)
    assert name.startswith("images/val~sample_predictions+step+7+")  # as the UI's slider wants it
    kept = MlflowClient(uri).download_artifacts(noted.info.run_id, name, str(tmp_path))
    drawn = codec.read_image(folder / "plots" / "sample_predictions" / "epoch_0007.png")
    assert np.array_equal(codec.read_image(Path(kept)), drawn)


def test_a_large_picture_is_made_small(board: MlflowExperiment, folder: Path, storage: Path, tmp_path: Path):
    run = begun(board, folder)
    train(folder, 0)
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), np.uint8)
    codec.write_image(folder / "plots" / "sample_predictions" / "epoch_0000.png", noise)
    run.finish_run("FINISHED")

    uri = default_tracking_uri(storage)
    (noted,) = found(uri, "otters")
    (name,) = images(uri, noted.info.run_id)
    kept = Path(MlflowClient(uri).download_artifacts(noted.info.run_id, name, str(tmp_path)))
    assert kept.stat().st_size <= 300_000


def test_a_picture_that_is_not_whole_is_only_a_warning(
    board: MlflowExperiment, folder: Path, storage: Path, caplog: pytest.LogCaptureFixture
):
    run = begun(board, folder)
    train(folder, 0)
    half = folder / "plots" / "sample_predictions" / "epoch_0000.png"
    half.write_bytes(b"\x89PNG\r\n\x1a\n")

    with caplog.at_level(logging.WARNING, "hrnet_ray.tracking"):
        run.finish_run("FINISHED")

    assert caplog.messages[0].startswith(f"MLflow missed an image ({half}")
    (noted,) = found(default_tracking_uri(storage), "otters")
    assert noted.info.status == "FINISHED"


def test_the_runs_own_tree_is_copied_under_the_same_names(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder)
    (folder / "plots" / "deep").mkdir(parents=True)
    (folder / "plots" / "deep" / "a.txt").write_text("a")
    (folder / "summary.json").write_text("{}")
    (folder / "ray").mkdir()
    (folder / "ray" / "state.pt").write_text("not for MLflow")
    run.log_artifacts(folder, relative_paths=("summary.json", "plots", "model"))
    run.finish_run("FINISHED")

    client = MlflowClient(default_tracking_uri(storage))
    (noted,) = found(default_tracking_uri(storage), "otters")
    names = [entry.path for entry in client.list_artifacts(noted.info.run_id)]
    assert names == ["plots", "resolved_config.json", "summary.json"]
    (deep,) = client.list_artifacts(noted.info.run_id, "plots/deep")
    assert deep.path == "plots/deep/a.txt"


def test_an_experiment_deleted_in_the_ui_comes_back(board: MlflowExperiment, folder: Path, storage: Path):
    client = MlflowClient(default_tracking_uri(storage))
    place = (storage / "mlartifacts").as_uri()
    client.delete_experiment(client.create_experiment("hrnet/otters", artifact_location=place))

    begun(board, folder).finish_run("FINISHED")

    (noted,) = found(default_tracking_uri(storage), "otters")
    assert noted.info.lifecycle_stage == "active"


def test_a_finished_run_that_is_run_again_keeps_its_end(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder)
    train(folder, 0)
    run.finish_run("FINISHED")
    (before,) = found(default_tracking_uri(storage), "otters")

    begun(MlflowExperiment.open_for_dataset("otters", storage_dir=storage, tracking_uri=None), folder).finish_run(
        "FINISHED"
    )

    (after,) = found(default_tracking_uri(storage), "otters")
    assert after.info.end_time == before.info.end_time


@pytest.mark.parametrize("uri", ["localhost:5000", "./mlruns", "file:///tmp/mlruns", "http://", "htp://127.0.0.1:5000"])
def test_what_can_be_no_address_is_refused_before_anything_starts(uri: str, tmp_path: Path):
    with pytest.raises(UsageError) as refused:
        MlflowExperiment.open_for_dataset("otters", storage_dir=tmp_path, tracking_uri=uri)

    what, where, fix = str(refused.value).splitlines()
    assert what == "no address of an MLflow server or database"
    assert where == f"  --cluster.tracking-uri {uri}"
    assert fix.startswith("  fix: give http://HOST:PORT or sqlite:///FILE, or leave it out")


def test_a_file_that_is_no_store_costs_a_warning_and_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(board_module, "DATABASE_FLUSH_TIMEOUT_S", 2.0)
    (tmp_path / "mlflow.db").write_bytes(b"not a database, and far too short to be one" * 30)

    with caplog.at_level(logging.WARNING, "hrnet_ray.tracking"):
        run = begun(
            MlflowExperiment.open_for_dataset("otters", storage_dir=tmp_path, tracking_uri=None),
            tmp_path / "first",
        )
        started = time.monotonic()
        run.finish_run("FINISHED")

    assert time.monotonic() - started < 20
    (warning,) = [text for text in caplog.messages if text.startswith("MLflow sync failed (")]
    assert "file is not a database" in warning


def test_two_runs_of_one_key_become_one_again(board: MlflowExperiment, folder: Path, storage: Path):
    """A request that seemed to be lost was carried out after all, and then sent once more."""
    begun(board, folder).finish_run("FINISHED")
    (first,) = found(default_tracking_uri(storage), "otters")
    client = MlflowClient(default_tracking_uri(storage))
    key = {"hrnet.key": first.data.tags["hrnet.key"]}
    client.create_run(first.info.experiment_id, tags=key, start_time=first.info.start_time + 1)
    assert len(found(default_tracking_uri(storage), "otters")) == 2

    list(sync_runs(folder))

    (left,) = found(default_tracking_uri(storage), "otters")
    assert left.info.run_id == first.info.run_id


def test_a_database_is_made_under_another_name_of_which_nothing_stays(empty_database: Path):
    assert [path.name for path in empty_database.parent.iterdir()] == ["mlflow.db"]


def test_a_trial_ended_with_its_last_epoch_though_its_study_says_so_later(storage: Path):
    board = MlflowExperiment.open_for_dataset("ends", storage_dir=storage, tracking_uri=None)
    parent = begun(board, storage / "ends", name="ends", tags={"kind": "study"})
    folder = storage / "ends" / "trials" / "01"
    trial = begun(board, folder, name="#01", parent_run=parent, tags={"kind": "trial"})
    train(folder, 0)
    time.sleep(0.02)
    trial.finish_run("FINISHED")
    parent.finish_run("FINISHED")

    runs = {run.data.tags["kind"]: run for run in found(default_tracking_uri(storage), "ends")}
    (epoch,) = read_metrics(folder)
    assert runs["trial"].info.end_time == epoch["at_ms"] < runs["study"].info.end_time


def test_the_log_is_told_once_for_each_end(board: MlflowExperiment, folder: Path, storage: Path):
    run = begun(board, folder)
    run.log_artifacts(folder, relative_paths=("run.log",))
    (folder / "run.log").write_text("it ends")
    run.finish_run("FINISHED")
    with (folder / "run.log").open("a") as file:
        file.write(", and MLflow was told")  # by who told it

    (noted,) = found(default_tracking_uri(storage), "otters")
    kept = MlflowClient(default_tracking_uri(storage)).list_artifacts(noted.info.run_id)
    assert "run.log" in [entry.path for entry in kept]
    assert not count_unsynced(folder, default_tracking_uri(storage))


def test_a_folder_made_anew_is_another_run_and_a_moved_one_the_same(
    board: MlflowExperiment, folder: Path, storage: Path
):
    for rate in (1e-3, 1e-4):
        shutil.rmtree(folder, ignore_errors=True)
        begun(board, folder, params={"optim.lr": rate}).finish_run("FINISHED")
    moved = folder.with_name("moved")
    folder.rename(moved)
    board = MlflowExperiment.open_for_dataset("otters", storage_dir=storage, tracking_uri=None)
    begun(board, moved).finish_run("FINISHED")
    (moved / ".mlflow/run.json").write_text("{")  # cannot be read: begun anew, with the same key
    board = MlflowExperiment.open_for_dataset("otters", storage_dir=storage, tracking_uri=None)
    begun(board, moved).finish_run("FINISHED")

    runs = found(default_tracking_uri(storage), "otters")

    assert [run.data.params["optim.lr"] for run in runs] == ["0.001", "0.0001"]

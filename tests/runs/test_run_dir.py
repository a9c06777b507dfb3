"""The run folder: created once, reopened with equal settings only."""

import json
import os
import platform
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.runs import run_dir
from hrnet_ray.runs.run_dir import open_run_dir


def test_a_run_folder_records_settings_and_environment(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)

    settings = json.loads((folder / "resolved_config.json").read_text())
    assert folder.parts[-2:] == ("tigers", "tiny")
    assert settings["optim.lr"] == 1e-3
    assert settings["data.digest"] == tigers.digest
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_the_same_experiment_reopens_its_folder(tiny, here, tigers):
    assert open_run_dir(tiny, here, tigers) == open_run_dir(tiny, here, tigers)


def test_another_experiment_of_the_same_name_is_refused_with_the_difference(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    other = replace(tiny, optim=replace(tiny.optim, lr=0.002))

    with pytest.raises(UsageError) as refused:
        open_run_dir(other, here, tigers)

    assert str(refused.value) == (
        "a run named 'tiny' exists with other settings\n"
        f"  {folder}: optim.lr: 0.001 -> 0.002\n"
        "  fix: choose another --name, or repeat the original command to resume that run"
    )


def test_a_longer_training_of_the_same_name_is_refused_with_a_way_to_continue(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    longer = replace(tiny, optim=replace(tiny.optim, epochs=50))

    with pytest.raises(UsageError) as refused:
        open_run_dir(longer, here, tigers)

    assert f"--model.pretrained {folder}/model/model.safetensors" in refused.value.fix


def test_a_moved_dataset_is_the_same_dataset(tiny, here, tigers):
    moved = replace(tiny, data=replace(tiny.data, root="/somewhere/else"))

    assert open_run_dir(tiny, here, tigers) == open_run_dir(moved, here, tigers)


def test_a_storage_that_is_a_file_is_refused(tiny, here, tigers, tmp_path):
    (tmp_path / "runs").write_text("not a folder")

    with pytest.raises(ClusterError, match="must be writable"):
        open_run_dir(tiny, here, tigers)


def _refused(experiment, cluster, data) -> ClusterError:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="must be writable") as refused:
        open_run_dir(experiment, cluster, data)
    assert time.monotonic() - started < 10
    assert f"{cluster.storage_path} on {platform.node()}: " in refused.value.where
    return refused.value


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_without_write_permission_is_refused(tiny, here, tigers, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)

    assert "Permission denied" in _refused(tiny, here, tigers).where


def test_a_storage_where_no_folder_can_be_created_is_refused(tiny, here, tigers):
    _refused(tiny, replace(here, storage_path="/proc/no such mount"), tigers)


@pytest.fixture
def read_only(tmp_path):
    """A function that remounts the storage, a file system of its own, as read-only."""
    storage = tmp_path / "runs"
    storage.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", storage], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield lambda: subprocess.run(["mount", "-o", "remount,ro", storage], check=True)
    subprocess.run(["umount", storage], check=True)


def test_a_run_whose_storage_became_read_only_is_refused(tiny, here, tigers, read_only):
    open_run_dir(tiny, here, tigers)
    read_only()

    assert "Read-only file system" in _refused(tiny, here, tigers).where


def test_a_run_from_before_a_setting_was_added_resumes(tiny, here, tigers):
    path = open_run_dir(tiny, here, tigers) / "resolved_config.json"
    settings = json.loads(path.read_text())
    del settings["model.weight_init"], settings["augment.shift_factor"]
    path.write_text(json.dumps(settings))

    assert open_run_dir(tiny, here, tigers) == path.parent
    shifted = replace(tiny, augment=replace(tiny.augment, shift_factor=0.1))
    with pytest.raises(UsageError, match="exists with other settings"):
        open_run_dir(shifted, here, tigers)


def test_unreadable_settings_are_named(tiny, here, tigers):
    path = open_run_dir(tiny, here, tigers) / "resolved_config.json"
    path.write_text('{"optim.lr": ')

    with pytest.raises(DataError, match="the settings of this run are unreadable") as refused:
        open_run_dir(tiny, here, tigers)

    assert str(path) in refused.value.where


def test_of_two_concurrent_commands_the_second_sees_the_settings_of_the_first(tiny, here, tigers, monkeypatch):
    other = replace(tiny, optim=replace(tiny.optim, lr=0.002))
    write_initial_files = run_dir._write_initial_files

    def write_second(folder: Path, path: Path, settings: dict) -> None:
        monkeypatch.undo()
        open_run_dir(other, here, tigers)
        write_initial_files(folder, path, settings)

    monkeypatch.setattr(run_dir, "_write_initial_files", write_second)

    with pytest.raises(UsageError, match=r"optim.lr: 0.002 -> 0.001"):
        open_run_dir(tiny, here, tigers)

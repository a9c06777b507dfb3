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


def test_a_run_folder_says_with_what_it_was_made(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)

    settings = json.loads((folder / "resolved_config.json").read_text())
    assert folder.parts[-2:] == ("tigers", "tiny")
    assert settings["optim.lr"] == 1e-3
    assert settings["data.digest"] == tigers.digest
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_the_same_experiment_goes_on_in_its_folder(tiny, here, tigers):
    assert open_run_dir(tiny, here, tigers) == open_run_dir(tiny, here, tigers)


def test_another_experiment_of_the_same_name_is_refused_with_the_difference(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    other = replace(tiny, optim=replace(tiny.optim, lr=0.002))

    with pytest.raises(UsageError) as refused:
        open_run_dir(other, here, tigers)

    assert str(refused.value) == (
        "a run named 'tiny' is there already, with other settings\n"
        f"  {folder}: optim.lr: 0.001 -> 0.002\n"
        "  fix: give this one another --name, or repeat the first command to go on with that one"
    )


def test_a_longer_training_of_that_name_is_told_how_to_begin(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    longer = replace(tiny, optim=replace(tiny.optim, epochs=50))

    with pytest.raises(UsageError) as refused:
        open_run_dir(longer, here, tigers)

    assert f"--model.pretrained {folder}/model/model.safetensors" in refused.value.fix


def test_data_that_lie_elsewhere_now_are_the_same_data(tiny, here, tigers):
    moved = replace(tiny, data=replace(tiny.data, root="/somewhere/else"))

    assert open_run_dir(tiny, here, tigers) == open_run_dir(moved, here, tigers)


def test_a_storage_that_is_a_file_is_refused(tiny, here, tigers, tmp_path):
    (tmp_path / "runs").write_text("not a folder")

    with pytest.raises(ClusterError, match="cannot be written to"):
        open_run_dir(tiny, here, tigers)


def _refused(experiment, cluster, data) -> ClusterError:
    started = time.monotonic()
    with pytest.raises(ClusterError, match="cannot be written to") as refused:
        open_run_dir(experiment, cluster, data)
    assert time.monotonic() - started < 10
    assert f"{cluster.storage - path} on {platform.node()}: " in refused.value.where
    return refused.value


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_storage_that_may_not_be_written_to_is_refused(tiny, here, tigers, tmp_path):
    (tmp_path / "runs").mkdir(mode=0o555)

    assert "Permission denied" in _refused(tiny, here, tigers).where


def test_a_storage_where_nobody_can_make_folders_is_refused(tiny, here, tigers):
    _refused(tiny, replace(here, storage_path="/proc/no such mount"), tigers)


@pytest.fixture
def read_only(tmp_path):
    """A function that makes a file system of the storage, and then makes it read-only."""
    storage = tmp_path / "runs"
    storage.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", storage], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("only root can mount a file system")
    yield lambda: subprocess.run(["mount", "-o", "remount,ro", storage], check=True)
    subprocess.run(["umount", storage], check=True)


def test_a_run_whose_storage_became_read_only_is_refused(tiny, here, tigers, read_only):
    open_run_dir(tiny, here, tigers)
    read_only()

    assert "Read-only file system" in _refused(tiny, here, tigers).where


def test_settings_that_cannot_be_read_any_more_are_named(tiny, here, tigers):
    path = open_run_dir(tiny, here, tigers) / "resolved_config.json"
    path.write_text('{"optim.lr": ')

    with pytest.raises(DataError, match=r"settings of this run cannot be read") as refused:
        open_run_dir(tiny, here, tigers)

    assert str(path) in refused.value.where


def test_of_two_that_begin_together_the_later_one_meets_the_settings_of_the_first(
    tiny, here, tigers, monkeypatch
):
    other = replace(tiny, optim=replace(tiny.optim, lr=0.002))
    begin = run_dir._write_initial_files

    def overtaken(folder: Path, path: Path, settings: dict) -> None:
        monkeypatch.undo()
        open_run_dir(other, here, tigers)
        begin(folder, path, settings)

    monkeypatch.setattr(run_dir, "_write_initial_files", overtaken)

    with pytest.raises(UsageError, match=r"optim.lr: 0.002 -> 0.001"):
        open_run_dir(tiny, here, tigers)

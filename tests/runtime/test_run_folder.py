import json
from dataclasses import replace

import pytest

from hrnet_ray.errors import ClusterError, UsageError
from hrnet_ray.runtime.run_folder import open_run_folder


def test_a_run_folder_says_with_what_it_was_made(tiny, here, tigers):
    folder = open_run_folder(tiny, here, tigers)

    settings = json.loads((folder / "resolved.json").read_text())
    assert folder.parts[-2:] == ("tigers", "tiny")
    assert settings["optim.lr"] == 1e-3
    assert settings["data.digest"] == tigers.digest
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]


def test_the_same_experiment_goes_on_in_its_folder(tiny, here, tigers):
    assert open_run_folder(tiny, here, tigers) == open_run_folder(tiny, here, tigers)


def test_another_experiment_of_the_same_name_is_refused_with_the_difference(tiny, here, tigers):
    folder = open_run_folder(tiny, here, tigers)
    other = replace(tiny, optim=replace(tiny.optim, lr=0.002))

    with pytest.raises(UsageError) as refused:
        open_run_folder(other, here, tigers)

    assert str(refused.value) == (
        "a run named 'tiny' is there already, with other settings\n"
        f"  {folder}: optim.lr: 0.001 -> 0.002\n"
        "  fix: give this one another --name, or repeat the first command to go on with that one"
    )


def test_a_storage_that_is_a_file_is_refused(tiny, here, tigers, tmp_path):
    (tmp_path / "runs").write_text("not a folder")

    with pytest.raises(ClusterError, match="cannot be written to"):
        open_run_folder(tiny, here, tigers)

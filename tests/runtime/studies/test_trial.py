"""What a trial leaves when it cannot train, in a process that no Tune started."""

from dataclasses import replace

import pytest

from hrnet_ray.config import Cluster, Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.runtime import stop_sign
from hrnet_ray.runtime.machines import Share
from hrnet_ray.runtime.studies.trial import Plan, run_trial
from hrnet_ray.runtime.studies.trial_notes import (
    NUMBER,
    TrialNote,
    read_notes,
    trials_folder,
    write_note,
)


@pytest.fixture
def plan(tiny: Experiment, tigers: Manifest, tmp_path, monkeypatch) -> Plan:
    """A study with one trial, drawn and not begun."""
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a trial sets it: put it back
    write_note(tmp_path, TrialNote(number="01", drawn={}, asked_at=0.0, began_at=0.0))
    return Plan(
        base=tiny,
        cluster=Cluster(workers=1, device="cpu", storage=str(tmp_path)),
        manifest=tigers,
        folder=tmp_path,
        share=Share(cpus=0.5, gpus=0, threads=1),
    )


@pytest.mark.timeout(20)
def test_a_trial_that_cannot_begin_ends_whatever_an_earlier_command_saved(plan: Plan):
    stop_sign.write(trials_folder(plan.folder) / "01", "saved")
    no_weights = replace(plan.base.model, init=str(plan.folder / "absent.pth"))

    run_trial({NUMBER: "01"}, plan=replace(plan, base=replace(plan.base, model=no_weights)), data={})

    note = read_notes(plan.folder)["01"]
    assert note.state == "failed"
    assert "absent.pth" in note.error
    assert stop_sign.read(trials_folder(plan.folder) / "01") == ""

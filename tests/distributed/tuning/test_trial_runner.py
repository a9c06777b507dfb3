"""What a trial leaves when it cannot train, in a process that no Tune started."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from hrnet_ray.config import Cluster, Experiment, override
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.distributed.cluster.resources import Share
from hrnet_ray.distributed.data.object_store import LostRows
from hrnet_ray.distributed.tuning import trial_runner
from hrnet_ray.distributed.tuning.trial_records import (
    NUMBER,
    TrialNote,
    read_notes,
    trials_folder,
    write_note,
)
from hrnet_ray.distributed.tuning.trial_runner import Plan, run_trial
from hrnet_ray.runs import stop_request


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
        started_in=str(tmp_path),
    )


@pytest.mark.timeout(20)
def test_a_trial_that_cannot_begin_ends_whatever_an_earlier_command_saved(plan: Plan):
    stop_request.write(trials_folder(plan.folder) / "01", "saved")
    without = override(plan.base, {"model.init": str(plan.folder / "absent.pth")})

    run_trial({NUMBER: "01"}, plan=replace(plan, base=without), data={})

    note = read_notes(plan.folder)["01"]
    assert note.state == "failed"
    assert "absent.pth" in note.error
    assert stop_request.read(trials_folder(plan.folder) / "01") == ""


@pytest.mark.parametrize(("workers", "again"), [(1, True), (2, False)])
def test_lost_rows_are_tunes_to_try_again_unless_the_trial_read_them_anew_itself(
    workers: int, again: bool, plan: Plan, monkeypatch
):
    plan = replace(plan, cluster=replace(plan.cluster, workers=workers))

    def lose(*_: object) -> None:
        raise LostRows("rows in the object store are lost", "OwnerDiedError", "try again")

    monkeypatch.setattr(trial_runner, "_train_trial", lose)
    with pytest.raises(LostRows) if again else nullcontext():
        run_trial({NUMBER: "01"}, plan=plan, data={})

    note = read_notes(plan.folder)["01"]
    lost = "rows in the object store are lost: OwnerDiedError"
    assert (note.state, note.error) == (("running", "") if again else ("failed", lost))

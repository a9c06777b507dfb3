"""What a trial leaves when it cannot train, in a process that no Tune started."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from hrnet_ray.config import ClusterConfig, ExperimentConfig, with_overrides
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.cluster.resources import WorkerResources
from hrnet_ray.distributed.data.object_store import CachedSplit, LostBlocksError
from hrnet_ray.distributed.tuning import trial_runner
from hrnet_ray.distributed.tuning.trial_records import (
    TRIAL_NUMBER_KEY,
    TrialRecord,
    get_trials_dir,
    read_trial_records,
    write_trial_record,
)
from hrnet_ray.distributed.tuning.trial_runner import StudyPlan, run_trial
from hrnet_ray.runs import stop_request


@pytest.fixture
def plan(tiny: ExperimentConfig, tigers: DatasetManifest, tmp_path, monkeypatch) -> StudyPlan:
    """A study with one trial, drawn and not begun."""
    monkeypatch.setenv("TUNE_FUNCTION_THREAD_TIMEOUT_S", "60")  # a trial sets it: put it back
    write_trial_record(
        tmp_path,
        TrialRecord(number="01", sampled_params={}, last_started_s=0.0, first_started_s=0.0),
    )
    return StudyPlan(
        base_experiment=tiny,
        cluster=ClusterConfig(num_workers=1, device="cpu", storage_path=str(tmp_path)),
        manifest=tigers,
        folder=tmp_path,
        worker_resources=WorkerResources(cpus=0.5, gpus=0, threads=1),
        driver_cwd=str(tmp_path),
    )


@pytest.mark.timeout(20)
def test_a_trial_that_cannot_begin_ends_whatever_an_earlier_command_saved(plan: StudyPlan):
    stop_request.write_state(get_trials_dir(plan.folder) / "01", "saved")
    without = with_overrides(plan.base_experiment, {"model.pretrained": str(plan.folder / "absent.pth")})

    no_rows = CachedSplit(block_refs=[], block_rows=[], decoded=True)
    data = {"train": no_rows, "val": no_rows}
    run_trial({TRIAL_NUMBER_KEY: "01"}, plan=replace(plan, base_experiment=without), data=data)

    note = read_trial_records(plan.folder)["01"]
    assert note.state == "failed"
    assert "absent.pth" in note.error
    assert stop_request.read_state(get_trials_dir(plan.folder) / "01") == ""


@pytest.mark.parametrize(("workers", "again"), [(1, True), (2, False)])
def test_lost_rows_are_tunes_to_try_again_unless_the_trial_read_them_anew_itself(
    workers: int, again: bool, plan: StudyPlan, monkeypatch
):
    plan = replace(plan, cluster=replace(plan.cluster, num_workers=workers))

    def lose(*_: object) -> None:
        raise LostBlocksError("rows in the object store are lost", "OwnerDiedError", "try again")

    monkeypatch.setattr(trial_runner, "_train_trial", lose)
    with pytest.raises(LostBlocksError) if again else nullcontext():
        run_trial({TRIAL_NUMBER_KEY: "01"}, plan=plan, data={})

    note = read_trial_records(plan.folder)["01"]
    lost = "rows in the object store are lost: OwnerDiedError"
    assert (note.state, note.error) == (("running", "") if again else ("failed", lost))

"""Test the order of the sync tasks, and that a repeated task sends nothing."""

import pytest

from hrnet_ray.errors import ClusterError
from hrnet_ray.tracking import MlflowExperiment
from hrnet_ray.tracking.mlflow_store import MlflowStore
from hrnet_ray.tracking.run_record import RunRecord, read_run_record
from hrnet_ray.tracking.sync_run import SYNC_TASKS, OpenRun, RunSyncer
from hrnet_ray.tracking.sync_state import SyncState
from tests.tracking.proxy import Proxy
from tests.tracking.runs import begun, train


@pytest.fixture
def run(proxy: Proxy, tmp_path, dead_uri: str) -> OpenRun:
    """Open a run with epochs, images, files and a status on the server; its tasks have not run."""
    folder = tmp_path / "otters" / "first"
    logger = begun(MlflowExperiment.open_for_dataset("tasks", storage_dir=tmp_path, tracking_uri=dead_uri), folder)
    train(folder, 1)
    logger.log_artifacts(folder, relative_paths=("metrics.jsonl",))
    record = read_run_record(folder)
    assert isinstance(record, RunRecord)
    store = MlflowStore(proxy.url)
    run_id, _ = store.get_or_create_run(record, parent_run_id=None)
    return OpenRun(store, folder, record, SyncState(run_id=run_id))


def test_small_data_is_synced_before_images_and_files():
    assert [task.name for task in SYNC_TASKS] == [
        "epochs",
        "system metrics",
        "summary metrics",
        "tags",
        "run status",
        "images",
        "files",
    ]


def test_a_repeated_task_sends_nothing(run: OpenRun, proxy: Proxy):
    sent = {task.name: 0 for task in SYNC_TASKS}
    for task in SYNC_TASKS:
        before = len(proxy.requests)
        task.sync(run)
        sent[task.name] = len(proxy.requests) - before
        task.sync(run)
        assert len(proxy.requests) - before == sent[task.name], task.name

    assert {name for name, requests in sent.items() if requests} == {"epochs", "tags", "run status", "images", "files"}


def test_the_error_of_a_task_names_it_and_what_was_sent_before_stays_noted(run: OpenRun, proxy: Proxy):
    syncer = RunSyncer(run.store)
    syncer.sync_run(run.folder)
    train(run.folder, 2)
    proxy.mode = "refuses"

    with pytest.raises(ClusterError) as failed:
        syncer.sync_run(run.folder)

    assert failed.value.__notes__ == [f"while syncing epochs of {run.folder}"]
    proxy.mode = "good"
    before = len(proxy.requests)
    syncer.sync_run(run.folder)
    sent = proxy.requests[before:]
    assert sum("log-batch" in request for request in sent) == 1  # epoch 2, and not epoch 1 or the tags again

"""Training on Ray Train with one and two workers."""

import csv
import json
import re
import shutil
import time
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from ray.train.torch import TorchTrainer

from hrnet_ray.data.images.codec import read_image
from hrnet_ray.data.manifest import read_split
from hrnet_ray.distributed.training.train import LightTorchTrainer, train_experiment
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.tracking import default_tracking_uri

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


IMAGES = [
    "dataset_report/samples.png",
    "dataset_report/samples_augmented.png",
    "plots/curves.png",
    "plots/pck_curve.png",
    "plots/per_keypoint.png",
    "plots/worst_predictions.png",
]


def test_two_workers_train_and_leave_all_files_of_a_run(from_here, here, tigers, tmp_path, capsys):
    result = train_experiment(from_here, here)

    epochs = read_metrics(result.folder)
    assert [entry["epoch"] for entry in epochs] == [1, 2]
    assert epochs[1]["train/loss"] < epochs[0]["train/loss"]
    assert [e["train/lr"] for e in epochs] == pytest.approx([1e-3, 1e-4])  # a milestone after 1 epoch
    summary = json.loads((result.folder / "summary.json").read_text())
    assert summary["best"] == result.best_score == max(e["val/OKS_AP"] for e in epochs)
    _, spec = load_model(result.folder / "model")
    assert spec.skeleton.keypoints == tigers.skeleton.keypoints
    poses = json.loads((result.folder / "predictions" / "val.coco.json").read_text())
    assert len(poses) == tigers.splits["val"].rows
    worst = f"plots/worst_predictions/epoch_{result.best_epoch:04d}.jpg"
    for image in (*IMAGES, "plots/sample_predictions/epoch_0002.jpg", worst):
        assert read_image(result.folder / image).std() > 10  # not blank
    output = capsys.readouterr().out
    assert re.search(r"Starting from start.pth: (\d+) of \1 tensors loaded", output)
    assert "epoch   2/2" in output
    assert "epoch   2/2" in (result.folder / "run.log").read_text()
    assert tigers.digest[:12] in (result.folder / "dataset_report" / "report.html").read_text()
    environment = json.loads((result.folder / "environment.json").read_text())
    assert environment["cluster"]["cpus"] >= 2
    assert (tmp_path / "runs" / "latest").resolve() == result.folder.resolve()
    with (result.folder / "plots" / "pck_curve.csv").open() as file:
        curve = [float(line["value"]) for line in csv.DictReader(file)]
    assert sum(curve) / len(curve) == pytest.approx(result.best_score)
    _check_mlflow(tmp_path, tigers, epochs)

    started = time.monotonic()
    again = train_experiment(from_here, here)  # nothing is left to do
    assert again == result
    assert read_metrics(result.folder) == epochs
    assert "is finished: 2 epochs" in capsys.readouterr().out
    print(f"a finished run ends after {time.monotonic() - started:.1f} s")


def _check_mlflow(tmp_path, tigers, epochs):
    client = MlflowClient(default_tracking_uri(tmp_path / "runs"))
    experiment = client.get_experiment_by_name("hrnet/tigers")
    (run,) = client.search_runs([experiment.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val/OKS_AP")
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in history] == [(e["epoch"], e["val/OKS_AP"]) for e in epochs]
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.tags["data.digest"] == tigers.digest
    assert run.inputs.dataset_inputs[0].dataset.digest == tigers.digest[:36]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"images", "model", "plots", "resolved_config.json", "metrics.jsonl"} <= names


def test_the_order_of_rows_is_logged_and_independent_of_the_number_of_workers(tiny, here, tigers):
    rows = tigers.splits["train"].rows
    size = next(s for s in range(4, rows) if rows % s >= 4)  # a last batch for two workers
    of_size = replace(tiny, optim=replace(tiny.optim, batch_size=size))
    orders = []
    for workers in (1, 2):
        run = train_experiment(
            replace(of_size, name=f"order{workers}"),
            replace(here, num_workers=workers, log_sample_order=True),
        )
        orders.append([path.read_text() for path in sorted((run.folder / "dataset_report/order").iterdir())])

    assert orders[0] == orders[1]
    assert orders[0][0] != orders[0][1]
    ids = sorted(read_split(tigers, "train", columns=["id"])["id"].to_pylist())
    assert all(sorted(map(int, epoch.split())) == ids for epoch in orders[0])


def test_a_corrupt_row_is_named_once_counted_and_not_fatal(tiny, here, tigers, tmp_path, capsys):
    root = tmp_path / "corrupt"
    shutil.copytree(tigers.root, root)
    path = root / tigers.splits["train"].shards[0].file
    table = pq.read_table(path)
    images = [b"", *table["picture"].to_pylist()[1:]]
    column = table.schema.get_field_index("picture")
    pq.write_table(table.set_column(column, "picture", pa.array(images, pa.binary())), path)
    experiment = replace(tiny, data=replace(tiny.data, root=str(root)))

    run = train_experiment(experiment, replace(here, num_workers=1))

    assert [entry["data/corrupt_rows"] for entry in read_metrics(run.folder)] == [1, 1]
    name, row = table["image"][0].as_py(), table["id"][0].as_py()
    output = capsys.readouterr().out
    assert output.count(f"skipped: train {name} #{row}") == 1
    rows = (run.folder / "dataset_report" / "skipped.csv").read_text()
    assert rows.splitlines()[1:] == [f"train,{name},changed since it was prepared,row {row}"]


def test_a_missing_gpu_is_refused_in_seconds(tiny, here):
    started = time.monotonic()

    with pytest.raises(ClusterError, match=r"2 workers need 2 GPUs, 0 available"):
        train_experiment(tiny, replace(here, device="gpu"))

    assert time.monotonic() - started < 15


def test_a_batch_too_small_for_the_workers_is_refused(tiny, here):
    odd = replace(tiny, optim=replace(tiny.optim, batch_size=3))

    with pytest.raises(UsageError, match=r"batch-size must be at least 4, got 3"):
        train_experiment(odd, here)


def test_missing_initial_weights_are_refused_at_once(tiny, here):
    lost = replace(tiny, model=replace(tiny.model, pretrained="nowhere.pth"))

    with pytest.raises(DataError, match=r"nowhere\.pth"):
        train_experiment(lost, here)


def test_an_unprepared_dataset_is_refused(tiny, here, tmp_path):
    lost = replace(tiny, data=replace(tiny.data, root=str(tmp_path)))

    with pytest.raises(DataError, match="no prepared data set"):
        train_experiment(lost, here)


def test_ray_still_has_the_callbacks_that_are_removed(ray_session):
    default, reduced = (
        {type(callback).__name__ for callback in trainer(print)._create_default_callbacks()}
        for trainer in (TorchTrainer, LightTorchTrainer)
    )

    assert default - reduced == {"DatasetsCallback", "PlacementGroupCleanerCallback"}

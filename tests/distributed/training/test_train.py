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
from hrnet_ray.distributed.training.train import TorchTrainerWithoutDatasets, train_experiment
from hrnet_ray.errors import ClusterError, DataError, UsageError
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.runs.event_log import read_metrics
from hrnet_ray.tracking import default_tracking_uri

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


DRAWN = [
    *("data/samples.png", "data/samples_augmented.png"),
    *("plots/curves.png", "plots/pck_curve.png", "plots/per_keypoint.png", "plots/worst16.png"),
]


def test_two_workers_train_score_and_leave_what_a_run_leaves(
    from_here, here, tigers, tmp_path, capsys
):
    outcome = train_experiment(from_here, here)

    epochs = read_metrics(outcome.folder)
    assert [entry["epoch"] for entry in epochs] == [0, 1]
    assert epochs[1]["train/loss"] < epochs[0]["train/loss"]
    assert [e["train/lr"] for e in epochs] == pytest.approx([1e-3, 1e-4])  # a milestone at 1
    summary = json.loads((outcome.folder / "summary.json").read_text())
    assert summary["best"] == outcome.best_score == max(e["val/OKS_AP"] for e in epochs)
    _, spec = load_model(outcome.folder / "model")
    assert spec.skeleton.keypoints == tigers.skeleton.keypoints
    poses = json.loads((outcome.folder / "predictions" / "val.coco.json").read_text())
    assert len(poses) == tigers.splits["val"].rows
    worst = f"plots/worst16/epoch_{outcome.best_epoch:04d}.jpg"
    for picture in (*DRAWN, "plots/fixed16/epoch_0001.jpg", worst):
        assert read_image(outcome.folder / picture).std() > 10  # something is drawn
    said = capsys.readouterr().out
    assert re.search(r"starting from start.pth: (\d+) of \1 tensors loaded", said)
    assert "epoch   2/2" in said
    assert "epoch   2/2" in (outcome.folder / "run.log").read_text()
    assert tigers.digest[:12] in (outcome.folder / "data" / "report.html").read_text()
    environment = json.loads((outcome.folder / "environment.json").read_text())
    assert environment["cluster"]["cpus"] >= 2
    assert (tmp_path / "runs" / "latest").resolve() == outcome.folder.resolve()
    with (outcome.folder / "plots" / "pck_curve.csv").open() as file:
        at_oks = [float(line["value"]) for line in csv.DictReader(file)]
    assert sum(at_oks) / len(at_oks) == pytest.approx(outcome.best_score)
    _mlflow_tells_the_same(tmp_path, tigers, epochs)

    started = time.monotonic()
    again = train_experiment(from_here, here)  # the same command: nothing is left to do
    assert again == outcome
    assert read_metrics(outcome.folder) == epochs
    assert "is finished: 2 epochs" in capsys.readouterr().out
    print(f"a finished run ends again after {time.monotonic() - started:.1f} s")


def _mlflow_tells_the_same(tmp_path, tigers, epochs):
    client = MlflowClient(default_tracking_uri(tmp_path / "runs"))
    board = client.get_experiment_by_name("hrnet/tigers")
    (run,) = client.search_runs([board.experiment_id])
    history = client.get_metric_history(run.info.run_id, "val/OKS_AP")
    assert run.info.status == "FINISHED"
    assert [(m.step, m.value) for m in history] == [(e["epoch"], e["val/OKS_AP"]) for e in epochs]
    assert run.data.params["optim.lr"] == "0.001"
    assert run.data.tags["data.digest"] == tigers.digest
    assert run.inputs.dataset_inputs[0].dataset.digest == tigers.digest[:36]
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"images", "model", "plots", "resolved_config.json", "metrics.jsonl"} <= names


def test_the_order_of_rows_is_written_and_does_not_know_how_many_workers_there_are(
    tiny, here, tigers
):
    rows = tigers.splits["train"].rows
    size = next(s for s in range(4, rows) if rows % s >= 4)  # a last batch that two can share
    of_size = replace(tiny, optim=replace(tiny.optim, batch_size=size))
    met = []
    for workers in (1, 2):
        run = train_experiment(
            replace(of_size, name=f"order{workers}"),
            replace(here, num_workers=workers, log_sample_order=True),
        )
        met.append([path.read_text() for path in sorted((run.folder / "data/order").iterdir())])

    assert met[0] == met[1]
    assert met[0][0] != met[0][1]
    ids = sorted(read_split(tigers, "train", columns=["id"])["id"].to_pylist())
    assert all(sorted(map(int, epoch.split())) == ids for epoch in met[0])


def test_a_row_that_rots_is_named_once_counted_and_not_fatal(tiny, here, tigers, tmp_path, capsys):
    root = tmp_path / "rotten"
    shutil.copytree(tigers.root, root)
    path = root / tigers.splits["train"].shards[0].file
    table = pq.read_table(path)
    pictures = [b"", *table["picture"].to_pylist()[1:]]
    place = table.schema.get_field_index("picture")
    pq.write_table(table.set_column(place, "picture", pa.array(pictures, pa.binary())), path)
    spoilt = replace(tiny, data=replace(tiny.data, root=str(root)))

    run = train_experiment(spoilt, replace(here, num_workers=1))

    assert [entry["data/corrupt_rows"] for entry in read_metrics(run.folder)] == [1, 1]
    name, row = table["image"][0].as_py(), table["id"][0].as_py()
    said = capsys.readouterr().out
    assert said.count(f"skipped: train {name} #{row}") == 1
    listed = (run.folder / "data" / "skipped.csv").read_text()
    assert listed.splitlines()[1:] == [f"train,{name},changed since it was prepared,row {row}"]


def test_a_gpu_that_is_not_there_is_refused_in_seconds(tiny, here):
    started = time.monotonic()

    with pytest.raises(ClusterError, match=r"2 workers want 2 GPUs \| have 0"):
        train_experiment(tiny, replace(here, device="gpu"))

    assert time.monotonic() - started < 15


def test_batches_that_workers_cannot_share_are_refused(tiny, here):
    odd = replace(tiny, optim=replace(tiny.optim, batch_size=3))

    with pytest.raises(UsageError, match="2 workers cannot share 3 crops: each needs 2"):
        train_experiment(odd, here)


def test_weights_that_are_not_there_are_refused_before_anything_starts(tiny, here):
    lost = replace(tiny, model=replace(tiny.model, pretrained="nowhere.pth"))

    with pytest.raises(DataError, match=r"nowhere\.pth"):
        train_experiment(lost, here)


def test_data_that_were_never_prepared_are_refused(tiny, here, tmp_path):
    lost = replace(tiny, data=replace(tiny.data, root=str(tmp_path)))

    with pytest.raises(DataError, match="no prepared data set"):
        train_experiment(lost, here)


def test_ray_still_has_the_process_that_is_left_out():
    usual, ours = (
        {type(one).__name__ for one in trainer(print)._create_default_callbacks()}
        for trainer in (TorchTrainer, TorchTrainerWithoutDatasets)
    )

    assert usual - ours == {"DatasetsCallback"}

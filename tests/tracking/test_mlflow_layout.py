"""What stands in MLflow: at most 40 params, whose commit, which study; and no secrets anywhere."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient

from hrnet_ray.cli.prepare import SyntheticArgs, run as prepare
from hrnet_ray.cli.train import format_mlflow_ui_command
from hrnet_ray.config import ClusterConfig, ExperimentConfig, flatten_config
from hrnet_ray.data.manifest import DatasetManifest, read_manifest
from hrnet_ray.distributed.training.mlflow_run import (
    EXCLUDED_PARAMS,
    MAX_PARAMS,
    open_mlflow_run,
    select_params,
)
from hrnet_ray.runs.run_dir import get_git_commit, open_run_dir
from hrnet_ray.text import redact_secrets
from hrnet_ray.tracking import MlflowExperiment, default_tracking_uri
from tests.tracking.proxy import Proxy
from tests.tracking.runs import found, train

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    """A prepared data set, as small as they come."""
    out = tmp_path_factory.mktemp("data") / "tigers"
    prepare(SyntheticArgs(kind="tigers", num_train=2, num_val=2, out=out, max_image_size=96))
    return read_manifest(out)


@pytest.fixture
def experiment(tigers: DatasetManifest) -> ExperimentConfig:
    """Anything, on these tigers."""
    base = ExperimentConfig()
    return replace(base, name="first", data=replace(base.data, root=str(tigers.root)))


def test_a_run_says_with_what_it_was_made_and_by_whom(
    experiment: ExperimentConfig, tigers: DatasetManifest, storage: Path
):
    cluster = ClusterConfig(storage_path=str(storage))
    board = MlflowExperiment.open_for_dataset("tigers", storage_dir=storage, tracking_uri=None)
    study = open_run_dir(experiment, cluster, tigers, search_settings={"optim.lr": "log(1, 2)"})
    parent = open_mlflow_run(board, study, experiment, tigers, kind="study", num_workers=2)
    trial = study / "trials" / "01"
    trial.mkdir(parents=True)
    settings = flatten_config(experiment)
    open_mlflow_run(
        board,
        trial,
        experiment,
        tigers,
        kind="trial",
        num_workers=2,
        parent=parent,
        params=settings,
    ).finish_run("FINISHED")
    parent.finish_run("FINISHED")

    runs = {run.data.tags["kind"]: run for run in found(default_tracking_uri(storage), "tigers")}
    for run in runs.values():
        tags = run.data.tags
        assert tags["study"] == "first"
        assert tags["git.sha"] == get_git_commit().rstrip("+")
        assert tags["git.dirty"] == str(get_git_commit().endswith("+")).lower()
        assert tags["data.digest"] == tigers.digest
        assert tags["hrnet_ray.version"]
        assert tags["ray.version"]
        assert tags["user"] == tags["mlflow.user"] != ""
        assert len(run.data.params) <= MAX_PARAMS
        assert run.data.params["data.name"] == "tigers"
        assert run.data.params["cluster.num_workers"] == "2"
    assert runs["study"].data.params["optim.lr"] == "log(1, 2)"  # what was searched, not a value
    assert runs["trial"].data.params["optim.lr"] == "0.001"
    assert {i.dataset.digest for i in runs["study"].inputs.dataset_inputs} == {tigers.digest[:36]}


def test_every_setting_that_is_left_out_is_one_and_stays_in_when_it_is_searched(tmp_path: Path):
    settings = flatten_config(ExperimentConfig())
    assert settings.keys() >= EXCLUDED_PARAMS

    (tmp_path / "resolved_config.json").write_text(json.dumps({"sampled_params": {"model.stem": 8}}))

    assert select_params(settings, tmp_path).keys() == settings.keys() - EXCLUDED_PARAMS | {"model.stem"}


SECRETS = {
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "AWS_SESSION_TOKEN": "FwoGZXIvYXdzE",
    "HUB_TOKEN": "hf_aBcDeFgH",
    "STORE_PASSWORD": "correct-horse",
}


def test_secrets_reach_neither_the_runs_nor_their_output_nor_mlflow(
    experiment: ExperimentConfig, tigers: DatasetManifest, proxy: Proxy, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture, server_folder: Path,
):  # fmt: skip
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    uri = proxy.url.replace("://", "://otter:battery-staple@")
    monkeypatch.setattr(sys, "argv", ["hrnet-ray", "train", "--cluster.tracking-uri", uri])
    leaky = " ".join(SECRETS.values()) + f" {uri}"
    cluster = ClusterConfig(storage_path=str(tmp_path), tracking_uri=uri)
    print(format_mlflow_ui_command(cluster))

    proxy.mode = "fails"
    folder = open_run_dir(experiment, cluster, tigers)
    board = MlflowExperiment.open_for_dataset("secret", storage_dir=tmp_path, tracking_uri=uri)
    run = open_mlflow_run(
        board, folder, experiment, tigers, kind="train", num_workers=1, params={"leak": leaky},
        tags={"leak": leaky},
    )  # fmt: skip
    train(folder, 0)
    _wait_for_the_warning(caplog)
    proxy.mode = "good"
    run.log_summary({}, tags={"error": leaky})
    run.finish_run("FAILED")

    (noted,) = found(proxy.url, "secret")
    assert noted.data.params == {"leak": "*** *** *** *** " + proxy.url, **_always(noted)}
    assert noted.data.tags["error"] == noted.data.tags["leak"] == noted.data.params["leak"]
    assert "MLflow sync failed" in caplog.text
    said = "".join(capfd.readouterr())
    assert said.startswith(f"{proxy.url}\n")
    places = [said.encode(), caplog.text.encode(), *_contents(tmp_path), *_contents(server_folder)]
    for secret in (*SECRETS.values(), "battery-staple"):
        assert [place[:200] for place in places if secret.encode() in place] == []


def _always(noted) -> dict[str, str]:
    return {name: noted.data.params[name] for name in ("data.name", "cluster.num_workers")}


def _wait_for_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    """A request that fails is not enough: MLflow's client tries again by itself."""
    deadline = time.monotonic() + 60
    while "MLflow sync failed" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.05)


def _contents(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("http://otter:pass@host:5000/x", "http://host:5000/x"),
        ("http://otter:p@ss@host", "http://host"),
        ("https://token@host and s3://key:secret@bucket/a", "https://host and s3://bucket/a"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("postgresql+psycopg2://me:x@db/mlflow", "postgresql+psycopg2://db/mlflow"),
        ("mail otter@river.org", "mail otter@river.org"),
        ("the key is swordfish, the region eu-west-1", "the key is ***, the region eu-west-1"),
        ("a short one: abc", "a short one: abc"),
    ],
)
def test_what_is_nobodys_business_is_taken_out_of_texts(text: str, left: str):
    environment = {"MY_API_KEY": "swordfish", "AWS_REGION": "eu-west-1", "A_TOKEN": "abc"}

    assert redact_secrets(text, environment) == left


def test_workers_that_record_epochs_load_no_mlflow():
    code = "import sys, hrnet_ray.runs.event_log, hrnet_ray.tracking; print('mlflow' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.stdout == "False\n", done.stderr


def test_pictures_of_the_worst_crops_have_their_own_slider(
    experiment: ExperimentConfig, tigers: DatasetManifest, storage: Path
):
    board = MlflowExperiment.open_for_dataset("worst", storage_dir=storage, tracking_uri=None)
    folder = open_run_dir(experiment, ClusterConfig(storage_path=str(storage)), tigers)
    run = open_mlflow_run(board, folder, experiment, tigers, kind="train", num_workers=1)
    train(folder, 0)
    (folder / "plots" / "sample_predictions").rename(folder / "plots" / "worst_predictions")
    run.finish_run("FINISHED")

    uri = default_tracking_uri(storage)
    (noted,) = found(uri, "worst")
    names = [entry.path for entry in MlflowClient(uri).list_artifacts(noted.info.run_id, "images")]
    assert all(name.startswith("images/val~worst_predictions+step+0+") for name in names)
    assert len(names) == 2  # and its small copy

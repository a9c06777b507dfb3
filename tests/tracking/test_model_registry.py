"""Models in a real MLflow server: logged, registered, loaded by anybody, refused when changed."""

import http.client
import json
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
from mlflow.exceptions import MlflowException

from hrnet_ray.data.batch import EvalBatch
from hrnet_ray.errors import ClusterError, DataError
from hrnet_ray.inference.export_modules import KeypointExportModule
from hrnet_ray.inference.model_package import compute_file_hashes, load_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.tracking.logged_model import LoggedModelRef, log_model
from hrnet_ray.tracking.model_download import download_model
from hrnet_ray.tracking.model_registry import (
    CHAMPION,
    ModelRegistry,
    RegisteredVersion,
    Run,
    get_registered_model_name,
)
from tests.evaluation.evaluated_models import EASY, write_model
from tests.small_models import make_random_model, make_spec

pytestmark = pytest.mark.timeout(300)  # the server, and a model that is exported

NAME = get_registered_model_name("otters")


@dataclass(frozen=True)
class Registered:
    """A model of random weights in a run, in a logged model, and in the registry."""

    registry: ModelRegistry
    run: Run
    folder: Path
    logged: LoggedModelRef
    version: RegisteredVersion


@pytest.fixture(scope="module")
def uri(server_port: int) -> str:
    return f"http://127.0.0.1:{server_port}"


@pytest.fixture(scope="module")
def registered(uri: str, tmp_path_factory: pytest.TempPathFactory) -> Registered:
    registry = ModelRegistry(uri)
    folder = write_model(tmp_path_factory.mktemp("run") / "model", EASY, decode="dark")
    experiment = registry.client.create_experiment("hrnet/registry")
    run = registry.client.create_run(experiment, tags=compute_file_hashes(folder))
    registry.client.log_artifacts(run.info.run_id, str(folder), "model")
    logged = log_model(registry, run, folder, *load_model(folder))
    version = registry.register_version(
        NAME,
        run_id=run.info.run_id,
        model_id=logged.model_id,
        artifact_uri=logged.artifact_uri,
        tags=compute_file_hashes(folder) | logged.tags,
    )
    registry.set_alias(CHAMPION, version)
    return Registered(registry, run, folder, logged, version)


@pytest.fixture
def loaded(uri: str, registered: Registered, monkeypatch: pytest.MonkeyPatch):
    """As anybody would load it: no package of ours, no pickle, whatever devices there are."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(uri)
    yield mlflow.pyfunc.load_model(f"models:/{NAME}@champion")
    mlflow.set_tracking_uri(before)


def test_anybody_loads_it_without_pickle_and_finds_the_same(loaded, registered: Registered):
    model, spec = load_model(registered.folder)
    ours = KeypointExportModule(model, spec).eval()
    for count in (1, 5):  # the example had 2
        crops = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)

        found = loaded.predict(crops)

        assert found.shape == (count, 15, 3)
        with torch.inference_mode():
            np.testing.assert_allclose(found, ours(torch.tensor(crops)).numpy(), rtol=1e-4)
    with pytest.raises(MlflowException, match="Shape of input"):
        loaded.predict(np.zeros((2, 32, 64, 3), np.uint8))


def test_its_files_are_ours_and_no_pickle(registered: Registered, tmp_path: Path):
    registry, version = registered.registry, registered.version

    files = registry.client.get_logged_model(registered.logged.model_id)
    assert files.status == "READY"
    assert files.params["decode"] == "dark"
    fetched = download_model(registry, version.uri, "--model", tmp_path)
    assert (fetched.run_id, fetched.hash_verified) == (registered.run.info.run_id, True)
    assert fetched.version == version == registry.get_by_alias(NAME, CHAMPION)
    for name in ("config.json", "model.safetensors", "README.md"):
        assert (tmp_path / name).read_bytes() == (registered.folder / name).read_bytes()
    linked = registry.client.get_run(registered.run.info.run_id).outputs
    assert [one.model_id for one in linked.model_outputs] == [registered.logged.model_id]


def test_a_version_is_found_by_what_it_is_made_of(registered: Registered, tmp_path: Path):
    registry = registered.registry

    assert registry.find_by_tags(NAME, compute_file_hashes(registered.folder)) == registered.version
    assert registry.find_by_tags(NAME, compute_file_hashes(write_model(tmp_path, EASY, seed=1))) is None
    assert registry.find_by_tags("hrnet-none", compute_file_hashes(registered.folder)) is None


@pytest.mark.parametrize(
    "text",
    [
        *("models:/hrnet-otters@nobody", "models:/hrnet-otters/99", "models:/none@champion"),
        *("models:/", "models:/../x", "models:/a/b/c", "f" * 32),
    ],
)
def test_what_is_not_there_is_named(registered: Registered, text: str, tmp_path: Path, uri: str):
    with pytest.raises(DataError) as refused:
        download_model(registered.registry, text, "--model", tmp_path)

    assert str(refused.value).startswith(f"the model does not exist\n  --model {text} in {uri}\n")


def test_a_run_is_checked_by_its_own_tags(registered: Registered, tmp_path: Path):
    registry, run_id = registered.registry, registered.run.info.run_id
    assert download_model(registry, run_id, "--model", tmp_path / "a").hash_verified

    bare = registry.client.create_run(registered.run.info.experiment_id)
    with pytest.raises(DataError, match="the model does not exist"):  # it trains its first epoch
        download_model(registry, bare.info.run_id, "--model", tmp_path / "none")
    registry.client.log_artifacts(bare.info.run_id, str(registered.folder), "model")
    assert not download_model(registry, bare.info.run_id, "--model", tmp_path / "b").hash_verified

    registry.client.set_tag(bare.info.run_id, "model.sha256", "0" * 64)
    with pytest.raises(DataError, match="changed after it was registered"):
        download_model(registry, bare.info.run_id, "--model", tmp_path / "c")


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_an_artifact_that_somebody_replaced_is_refused(registered: Registered, name: str, tmp_path: Path):
    client, model_id = registered.registry.client, registered.logged.model_id
    other = write_model(tmp_path / "other", EASY, seed=1, padding=2.0)
    client.log_model_artifact(model_id, str(other / name), "hrnet")  # as anybody may who knows it
    try:
        with pytest.raises(DataError) as refused:
            download_model(registered.registry, f"models:/{NAME}@champion", "--model", tmp_path / "x")
    finally:
        client.log_model_artifact(model_id, str(registered.folder / name), "hrnet")

    what, where, _ = str(refused.value).splitlines()
    assert what == "a model that was changed after it was registered"
    assert where.startswith(f"  --model models:/{NAME}@champion: {NAME} version 1: {name} is not")


def test_a_version_that_nobody_vouches_for_is_refused(registered: Registered, tmp_path: Path):
    made = registered.registry.register_version(
        "hrnet-foreign",
        run_id=registered.run.info.run_id,
        model_id=registered.logged.model_id,
        artifact_uri=registered.logged.artifact_uri,
        tags={},
    )

    with pytest.raises(DataError, match="a model without a sha256 tag"):
        download_model(registered.registry, made.uri, "--model", tmp_path)


def test_a_server_that_is_not_there_is_named(dead_uri: str):
    with pytest.raises(ClusterError, match="the MLflow store does not answer"):
        ModelRegistry(dead_uri).get_by_alias(NAME, CHAMPION)


@pytest.mark.parametrize("changed", [{}, {"flip_test": False}, {"decode": "dark"}, {"decode": "argmax", "sigma": 2.0}])
def test_what_is_exported_finds_what_the_predictor_finds(changed: dict):
    spec = make_spec(EASY, **changed)
    model = make_random_model(spec)
    crops = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    uncut = torch.eye(3, dtype=torch.float64).expand(3, 3, 3)

    with torch.inference_mode():
        found = KeypointExportModule(model, spec).eval()(crops)

    wanted = Predictor(model, spec).predict_crop_batches([EvalBatch(torch.arange(3), crops, uncut)])
    torch.testing.assert_close(found[..., :2], wanted.image_xy.float(), atol=1e-3, rtol=0)
    torch.testing.assert_close(found[..., 2], wanted.scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("method", "path", "headers", "body", "status"),
    [
        ("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", {}, None, 200),
        (
            *("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0"),
            *({"Host": "evil.example"}, None, 403),
        ),
        (
            *("POST", "/api/2.0/mlflow/experiments/create"),
            *({"Origin": "http://evil.example"}, {"name": "of-evil"}, 403),
        ),
        *(
            ("GET", f"/api/2.0/mlflow-artifacts/artifacts/{path}", {}, None, 400)
            for path in ("..%2F..%2Fetc%2Fpasswd", "%2Fetc%2Fpasswd", "a%2F..%2F..%2Fmlflow.db")
        ),
        (
            *("POST", "/api/2.0/mlflow/model-versions/create", {}),
            *({"name": "hrnet-otters", "source": "/etc"}, 400),
        ),
    ],
)
def test_the_server_refuses_strangers_and_paths_that_lead_out(
    server_port: int,
    registered: Registered,
    method: str,
    path: str,
    headers: dict[str, str],
    body: dict[str, str] | None,
    status: int,
):
    connection = http.client.HTTPConnection("127.0.0.1", server_port, timeout=30)
    content = json.dumps(body) if body else None
    connection.request(method, path, content, {"Content-Type": "application/json", **headers})

    assert connection.getresponse().status == status
    connection.close()

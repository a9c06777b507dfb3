"""The files of cluster/, checked by Ray's own rules. Nothing is started and no cloud is asked."""

import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from hrnet_ray.learning.environment import WAIT_BRIEFLY

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
RAY_UP = ["aws.yaml", "gcp.yaml", "local.yaml"]
TOKEN = "~/.ray/auth_token"

Config = dict[str, Any]


def read(name: str) -> Config:
    return yaml.safe_load((CLUSTER / name).read_text())


@pytest.fixture(params=RAY_UP)
def config(request) -> Config:
    return read(request.param)


def starts(config: Config) -> list[str]:
    """The commands that start Ray: one for the head, one for the workers."""
    commands = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [command for command in commands if "ray start" in command]


def test_ray_accepts_it(config: Config):
    validate_config(prepare_config(config))


def test_ray_refuses_a_typo(config: Config):
    """Shows that the test above can fail."""
    prepared = prepare_config(config)
    prepared["max_worker"] = prepared.pop("max_workers")

    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(prepared)


def test_every_node_asks_for_the_token_which_travels_as_a_file(config: Config):
    head, worker = starts(config)

    assert "--head" in head
    assert "--address=$RAY_HEAD_IP:6379" in worker
    assert all("export RAY_AUTH_MODE=token" in command for command in (head, worker))
    assert config["file_mounts"][TOKEN] == TOKEN
    assert "chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token" in config["setup_commands"]


@pytest.mark.parametrize("name", [*RAY_UP, "mlflow.yaml", "env.yaml"])
def test_no_token_is_written_in_a_file(name: str):
    assert "RAY_AUTH_TOKEN" not in (CLUSTER / name).read_text()


def test_the_dashboard_listens_on_loopback(config: Config):
    head, _ = starts(config)

    assert "--dashboard-host=127.0.0.1" in head


def test_nothing_lets_the_whole_internet_in(config: Config):
    written = yaml.safe_dump(prepare_config(config))

    assert "0.0.0.0" not in written
    assert "::/0" not in written


def test_aws_nodes_have_their_own_security_group():
    """Without one Ray makes a group that opens SSH to everyone."""
    nodes = read("aws.yaml")["available_node_types"].values()

    assert all(node["node_config"]["SecurityGroupIds"] for node in nodes)


def test_workers_of_a_cloud_are_there_for_a_run_and_have_a_gpu():
    gpu = {name: read(name)["available_node_types"]["gpu"] for name in ("aws.yaml", "gcp.yaml")}

    assert all(1 <= node["min_workers"] <= node["max_workers"] for node in gpu.values())
    assert gpu["gcp.yaml"]["resources"]["GPU"] == 1


def test_everything_that_is_copied_to_the_nodes_is_there(root: Path, config: Config):
    sources = [source for source in config["file_mounts"].values() if source != TOKEN]

    assert sources
    assert all((root / source).exists() for source in sources)


def test_local_says_how_it_must_be_started():
    text = (CLUSTER / "local.yaml").read_text()

    assert "RAY_UP_enable_autoscaler_v2=0 ray up" in text


def test_the_mlflow_server_is_published_on_loopback_only():
    server = read("mlflow.yaml")["services"]["mlflow"]

    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert "--allowed-hosts=127.0.0.1:5000,localhost:5000" in server["command"]
    assert server["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_jobs_settings_are_what_ray_takes():
    settings = read("env.yaml")

    assert settings.keys() == {"env_vars"}
    assert all(isinstance(value, str) for value in settings["env_vars"].values())
    assert settings["env_vars"].items() >= WAIT_BRIEFLY.items()


def test_what_a_job_uploads_is_the_code_and_nothing_heavy(root: Path, tmp_path: Path):
    """Ray applies .gitignore and .rayignore; `data/` must not take hrnet_ray/data/ with it."""
    checkout = tmp_path / "checkout"
    for name in (
        "hrnet_ray/data/rows.py",
        "experiments/tune_atrw.py",
        "cluster/env.yaml",
        "data/mpii/part-0.parquet",
        "runs/demo/log.txt",
        "tests/test_it.py",
        "docs/picture.png",
        ".git/config",
        ".venv/pyvenv.cfg",
        "weights.pth",
    ):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("x")
    for name in (".gitignore", ".rayignore"):
        (checkout / name).write_text((root / name).read_text())

    create_package(str(checkout), tmp_path / "upload.zip", include_gitignore=True)

    with zipfile.ZipFile(tmp_path / "upload.zip") as upload:
        files = {name for name in upload.namelist() if not name.endswith("/")}
    assert files - {".gitignore", ".rayignore"} == {
        "hrnet_ray/data/rows.py",
        "experiments/tune_atrw.py",
        "cluster/env.yaml",
    }


def test_what_a_job_uploads_is_small(root: Path, tmp_path: Path):
    create_package(str(root), tmp_path / "upload.zip", include_gitignore=True)

    assert (tmp_path / "upload.zip").stat().st_size < 5e6

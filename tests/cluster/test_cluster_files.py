"""The files of cluster/, checked by Ray's own rules. Nothing is started and no cloud is asked."""

import re
import shlex
import zipfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from ray._private.runtime_env.packaging import create_package
from ray.autoscaler._private.util import prepare_config, validate_config

from hrnet_ray.cli import parse_args
from hrnet_ray.cli.tune import TuneArgs
from hrnet_ray.training.cpu_env import OPENMP_WAIT_ENV

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


@pytest.mark.parametrize("name", [path.name for path in CLUSTER.glob("*.yaml")])
def test_no_token_is_written_in_a_file(name: str):
    assert "RAY_AUTH_TOKEN" not in str(read(name))


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


@pytest.fixture
def on_kubernetes() -> Config:
    """The cluster that KubeRay makes."""
    return read("kuberay-cluster.yaml")["spec"]


def pods(spec: Config) -> list[Config]:
    """Of the head, and of each group of workers."""
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_a_job_on_kubernetes_gets_the_very_same_cluster(on_kubernetes: Config):
    assert read("kuberay-rayjob.yaml")["spec"]["rayClusterSpec"] == on_kubernetes


def test_kuberay_is_told_the_version_of_ray_in_the_image(root: Path, on_kubernetes: Config):
    installed = re.search(r"^ray==(.*)$", (root / "constraints.txt").read_text(), re.M)

    assert installed
    assert on_kubernetes["rayVersion"] == installed[1]
    assert on_kubernetes["authOptions"] == {"mode": "token"}


def test_all_pods_run_one_image_and_write_one_volume(on_kubernetes: Config):
    (head, *workers) = pods(on_kubernetes)

    assert workers
    for pod in (head, *workers):
        (container,) = pod["containers"]
        assert container["image"] == head["containers"][0]["image"]
        (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
        assert (mount["mountPath"], mount["name"]) == ("/shared", volume["name"])
        assert pod["securityContext"]["fsGroup"] == 1000  # `useradd --uid 1000` in the Dockerfile
        assert container["resources"]["limits"] == container["resources"]["requests"]


def test_the_gpus_on_kubernetes_are_the_workers(on_kubernetes: Config):
    head, gpu = (pod["containers"][0]["resources"]["limits"] for pod in pods(on_kubernetes))

    assert "nvidia.com/gpu" not in head
    assert gpu["nvidia.com/gpu"] == "1"
    (group,) = on_kubernetes["workerGroupSpecs"]
    assert group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"]
    assert on_kubernetes["enableInTreeAutoscaling"]
    (toleration,) = pods(on_kubernetes)[1]["tolerations"]
    assert toleration["key"] == "nvidia.com/gpu"


def test_the_job_on_kubernetes_is_an_experiment_that_waits_for_its_gpu(root: Path):
    python, script, *flags = shlex.split(read("kuberay-rayjob.yaml")["spec"]["entrypoint"])

    assert python == "python"
    assert (root / Path(script).relative_to("/app")).is_file()  # `WORKDIR /app` in the Dockerfile
    settings = parse_args(TuneArgs, flags, prog=script)
    assert settings.experiment.data.root.startswith("/shared/")
    assert settings.cluster.storage_path.startswith("/shared/")
    assert settings.cluster.device == "gpu"
    assert settings.cluster.resource_timeout_s >= 600


def test_the_mlflow_server_is_published_on_loopback_only():
    server = read("mlflow.yaml")["services"]["mlflow"]

    assert all(port.startswith("127.0.0.1:") for port in server["ports"])
    assert "--allowed-hosts=127.0.0.1:5000,localhost:5000" in server["command"]
    assert server["environment"]["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"


def test_a_jobs_settings_are_what_ray_takes():
    settings = read("env.yaml")

    assert settings.keys() == {"env_vars"}
    assert all(isinstance(value, str) for value in settings["env_vars"].values())
    assert settings["env_vars"].items() >= OPENMP_WAIT_ENV.items()


def test_what_a_job_uploads_is_the_code_and_nothing_heavy(root: Path, tmp_path: Path):
    """Ray applies .gitignore and .rayignore; `data/` must not take hrnet_ray/data/ with it."""
    checkout = tmp_path / "checkout"
    for name in (
        "hrnet_ray/data/records.py",
        "experiments/tune_atrw.py",
        "cluster/env.yaml",
        "data/mpii/part-0.parquet",
        "runs/demo/run.log",
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
        "hrnet_ray/data/records.py",
        "experiments/tune_atrw.py",
        "cluster/env.yaml",
    }


def test_what_a_job_uploads_is_small(root: Path, tmp_path: Path):
    create_package(str(root), tmp_path / "upload.zip", include_gitignore=True)

    assert (tmp_path / "upload.zip").stat().st_size < 5e6

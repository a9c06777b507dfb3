import socket
from pathlib import Path

import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster import node_probe
from hrnet_ray.doctor.ray_cluster import (
    ClusterProbe,
    NodeReport,
    check_clock_skew,
    check_reachable,
    check_shared_storage,
    probe_cluster,
    resolve_ray_address,
)
from hrnet_ray.doctor.result import CheckResult, CheckSkipped

STORAGE_DIR = Path("/nfs/runs")


def make_probe(*nodes: NodeReport, local_error: str = "") -> ClusterProbe:
    return ClusterProbe(
        address="10.0.0.1:6379",
        storage_dir=STORAGE_DIR,
        nodes=nodes,
        local_storage_error=local_error,
    )


def make_node(address: str = "10.0.0.2", **fields: object) -> NodeReport:
    return NodeReport(**{"address": address, "cpus": 4.0, "gpus": 0.0, **fields})


@pytest.mark.ray
def test_every_node_of_a_cluster_is_probed(ray_session: None, tmp_path: Path):
    import ray

    address = ray.get_runtime_context().gcs_address
    result = probe_cluster(address, tmp_path)

    assert result.connection_error == ""
    cluster = ClusterConfig(ray_address=address)
    assert check_reachable(result, cluster) == CheckResult("ok", f"{address}: 1 node with 2 CPUs and 0 GPUs")
    detail = f"{tmp_path} is shared by 1 node and this machine"
    assert check_shared_storage(result) == CheckResult("ok", detail)
    assert check_clock_skew(result).detail.startswith("at most 0.0 s apart (+- ")
    assert list(tmp_path.iterdir()) == []  # the probe files are deleted


def test_without_an_address_a_run_starts_ray_locally(monkeypatch: pytest.MonkeyPatch):
    assert resolve_ray_address(ClusterConfig()) is None
    assert resolve_ray_address(ClusterConfig(ray_address="local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert resolve_ray_address(ClusterConfig()) == "10.0.0.1:6379"

    assert {check(None).state for check in (check_shared_storage, check_clock_skew)} == {"ok"}
    assert check_reachable(None, ClusterConfig()).state == "ok"


def test_a_missing_cluster_is_reported_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"

    result = probe_cluster(address, STORAGE_DIR)

    assert check_reachable(result, ClusterConfig(ray_address=address)) == CheckResult(
        "wrong",
        f"{address}: Connection refused",
        "RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache cluster/local.yaml",
    )
    assert check_reachable(result, ClusterConfig()).fix.startswith("unset RAY_ADDRESS")  # it came from there
    for check in (check_shared_storage, check_clock_skew):
        with pytest.raises(CheckSkipped):
            check(result)


def test_a_server_other_than_ray_is_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        result = probe_cluster(f"127.0.0.1:{silent.getsockname()[1]}", STORAGE_DIR, timeout_s=1.0)

    assert result.connection_error == "no answer in 1 s"


def test_the_fix_for_a_refused_token_copies_it_from_the_head_node():
    refused = ClusterProbe(
        address="head:6379",
        storage_dir=STORAGE_DIR,
        connection_error="ConnectionError: Failed to connect",
    )

    fix = check_reachable(refused, ClusterConfig(ray_address="head:6379")).fix

    assert fix == (
        "export RAY_AUTH_MODE=token && scp head:.ray/auth_token ~/.ray/auth_token && chmod 600 ~/.ray/auth_token"
    )


def test_gpus_that_ray_does_not_use_are_reported():
    result = check_reachable(make_probe(make_node(gpus=1.0, installed_gpus=4)), ClusterConfig())

    assert result.state == "careful"
    assert result.detail.endswith("10.0.0.2 has 4 GPUs, Ray uses 1")
    assert result.fix == (
        "stop the Ray node there, then: ssh 10.0.0.2 'ray start --address=10.0.0.1:6379 --num-gpus=4'"
    )


def test_fewer_gpus_than_workers_are_wrong():
    two = make_probe(make_node(gpus=2.0, installed_gpus=2))

    assert check_reachable(two, ClusterConfig(device="gpu", num_workers=3)).state == "wrong"
    assert check_reachable(two, ClusterConfig(device="gpu", num_workers=2)).state == "ok"


def test_a_node_without_the_storage_is_named_with_a_mount_command():
    result = check_shared_storage(
        make_probe(make_node(), make_node("10.0.0.3", storage_problem="cannot write: Read-only"))
    )

    assert result == CheckResult(
        "wrong",
        "/nfs/runs: 10.0.0.3 cannot write: Read-only",
        "ssh 10.0.0.3 'sudo mount -a; findmnt -T /nfs/runs'",
    )
    assert check_shared_storage(make_probe(make_node(), local_error="No space left on device")).state == "wrong"


def test_a_node_reads_the_probe_file_and_answers(tmp_path: Path):
    (tmp_path / "mark").write_text("abc")

    assert node_probe.probe_storage(str(tmp_path), "mark", "abc", "answer")["storage_problem"] == ""
    assert (tmp_path / "answer").read_text() == "cba"


def test_a_file_that_cannot_be_written_or_read_is_reported(tmp_path: Path):
    (tmp_path / "file").write_text("")

    assert node_probe.try_write_file(tmp_path / "mark", "abc") == ""
    assert node_probe.try_read_file(tmp_path / "mark") == "abc"
    assert node_probe.try_write_file(tmp_path / "file" / "mark", "abc") == "Not a directory"
    assert node_probe.try_read_file(tmp_path / "file" / "mark") is None


def test_a_node_with_another_folder_is_reported(tmp_path: Path):
    (tmp_path / "mark").write_text("another cluster's")

    problems = [
        node_probe.probe_storage(str(folder), "mark", "abc", "answer")["storage_problem"]
        for folder in (tmp_path, tmp_path / "none", tmp_path / "mark")
    ]

    assert problems == [
        "reads other content than this machine wrote",
        "does not see the files of this machine",
        "cannot write: Not a directory",
    ]
    assert not (tmp_path / "answer").exists()


def test_the_fix_sets_the_clock_that_differs_most():
    late = make_node("10.0.0.3", clock_offset_s=-9.0, clock_uncertainty_s=0.1)

    assert check_clock_skew(make_probe(make_node(clock_offset_s=0.2), late)) == CheckResult(
        "wrong",
        "9.2 s apart; 10.0.0.3 differs most from the others",
        "ssh 10.0.0.3 sudo timedatectl set-ntp true",
    )
    this_machine = check_clock_skew(
        make_probe(make_node(clock_offset_s=8.9), make_node("10.0.0.3", clock_offset_s=9.0))
    )
    assert this_machine.fix == "sudo timedatectl set-ntp true"
    assert check_clock_skew(make_probe(make_node(clock_offset_s=4.9))).state == "ok"


def test_a_difference_within_the_uncertainty_is_ok():
    assert check_clock_skew(make_probe(make_node(clock_offset_s=6.0, clock_uncertainty_s=2.0))).state == "ok"
    assert check_clock_skew(make_probe(make_node(clock_offset_s=6.0, clock_uncertainty_s=0.1))).state == "wrong"

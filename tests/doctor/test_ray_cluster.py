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

ANYWHERE = Path("/nfs/runs")


def visited(*found: NodeReport, here: str = "") -> ClusterProbe:
    return ClusterProbe(
        address="10.0.0.1:6379", storage_dir=ANYWHERE, nodes=found, local_storage_error=here
    )


def node(address: str = "10.0.0.2", **has: object) -> NodeReport:
    return NodeReport(**{"address": address, "cpus": 4.0, "gpus": 0.0, **has})


@pytest.mark.ray
def test_every_node_of_a_cluster_is_visited(ray_session: None, tmp_path: Path):
    import ray

    address = ray.get_runtime_context().gcs_address
    found = probe_cluster(address, tmp_path)

    assert found.connection_error == ""
    cluster = ClusterConfig(ray_address=address)
    assert check_reachable(found, cluster) == CheckResult(
        "ok", f"{address}: 1 node with 2 CPUs and 0 GPUs"
    )
    said = f"1 node wrote in {tmp_path}, and were read here"
    assert check_shared_storage(found) == CheckResult("ok", said)
    assert check_clock_skew(found).detail.startswith("0.0 s apart at most (known to ")
    assert list(tmp_path.iterdir()) == []  # what was written is gone again


def test_without_an_address_a_run_starts_ray_here(monkeypatch: pytest.MonkeyPatch):
    assert resolve_ray_address(ClusterConfig()) is None
    assert resolve_ray_address(ClusterConfig(ray_address="local")) is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert resolve_ray_address(ClusterConfig()) == "10.0.0.1:6379"

    assert {check(None).state for check in (check_shared_storage, check_clock_skew)} == {"ok"}
    assert check_reachable(None, ClusterConfig()).state == "ok"


def test_a_cluster_that_is_not_there_is_told_at_once():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

    found = probe_cluster(address, ANYWHERE)

    assert check_reachable(found, ClusterConfig(ray_address=address)) == CheckResult(
        "wrong",
        f"{address}: Connection refused",
        "RAY_UP_enable_autoscaler_v2=0 ray up -y --no-config-cache cluster/local.yaml",
    )
    assert check_reachable(found, ClusterConfig()).fix.startswith(
        "unset RAY_ADDRESS"
    )  # it came from there
    for check in (check_shared_storage, check_clock_skew):
        with pytest.raises(CheckSkipped):
            check(found)


def test_something_else_than_ray_is_left_after_the_limit():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = probe_cluster(f"127.0.0.1:{silent.getsockname()[1]}", ANYWHERE, timeout_s=1.0)

    assert found.connection_error == "no answer in 1 s"


def test_a_refused_token_is_fetched_from_the_head():
    refused = ClusterProbe(
        address="head:6379",
        storage_dir=ANYWHERE,
        connection_error="ConnectionError: Failed to connect",
    )

    fix = check_reachable(refused, ClusterConfig(ray_address="head:6379")).fix

    assert fix == (
        "export RAY_AUTH_MODE=token && scp head:.ray/auth_token ~/.ray/auth_token"
        " && chmod 600 ~/.ray/auth_token"
    )


def test_gpus_that_ray_does_not_know_are_told():
    found = check_reachable(visited(node(gpus=1.0, installed_gpus=4)), ClusterConfig())

    assert found.state == "careful"
    assert found.detail.endswith("10.0.0.2 has 4 GPUs, Ray knows 1")
    assert found.fix == (
        "end Ray's node there, then: ssh 10.0.0.2 'ray start --address=10.0.0.1:6379 --num-gpus=4'"
    )


def test_fewer_gpus_than_workers_are_wrong():
    two = visited(node(gpus=2.0, installed_gpus=2))

    assert check_reachable(two, ClusterConfig(device="gpu", num_workers=3)).state == "wrong"
    assert check_reachable(two, ClusterConfig(device="gpu", num_workers=2)).state == "ok"


def test_a_node_without_the_storage_is_named_with_how_to_mount_it():
    found = check_shared_storage(
        visited(node(), node("10.0.0.3", storage_problem="cannot write: Read-only"))
    )

    assert found == CheckResult(
        "wrong",
        "/nfs/runs: 10.0.0.3 cannot write: Read-only",
        "ssh 10.0.0.3 'sudo mount -a; findmnt -T /nfs/runs'",
    )
    assert check_shared_storage(visited(node(), here="No space left on device")).state == "wrong"


def test_a_node_reads_what_was_written_and_answers(tmp_path: Path):
    (tmp_path / "mark").write_text("abc")

    assert node_probe.probe_storage(str(tmp_path), "mark", "abc", "answer")["storage_problem"] == ""
    assert (tmp_path / "answer").read_text() == "cba"


def test_a_place_where_this_machine_cannot_write_is_told(tmp_path: Path):
    (tmp_path / "file").write_text("")

    assert node_probe.try_write_file(tmp_path / "mark", "abc") == ""
    assert node_probe.try_read_file(tmp_path / "mark") == "abc"
    assert node_probe.try_write_file(tmp_path / "file" / "mark", "abc") == "Not a directory"
    assert node_probe.try_read_file(tmp_path / "file" / "mark") is None


def test_a_node_that_sees_another_folder_says_so(tmp_path: Path):
    (tmp_path / "mark").write_text("another cluster's")

    trouble = [
        node_probe.probe_storage(str(place), "mark", "abc", "answer")["storage_problem"]
        for place in (tmp_path, tmp_path / "none", tmp_path / "mark")
    ]

    assert trouble == [
        "reads something else than this machine wrote",
        "does not see what this machine writes",
        "cannot write: Not a directory",
    ]
    assert not (tmp_path / "answer").exists()


def test_the_clock_that_is_wrong_is_set():
    late = node("10.0.0.3", clock_offset_s=-9.0, clock_uncertainty_s=0.1)

    assert check_clock_skew(visited(node(clock_offset_s=0.2), late)) == CheckResult(
        "wrong",
        "9.2 s apart; 10.0.0.3 is farthest from the others",
        "ssh 10.0.0.3 sudo timedatectl set-ntp true",
    )
    mine = check_clock_skew(visited(node(clock_offset_s=8.9), node("10.0.0.3", clock_offset_s=9.0)))
    assert mine.fix == "sudo timedatectl set-ntp true"
    assert check_clock_skew(visited(node(clock_offset_s=4.9))).state == "ok"


def test_a_difference_that_a_slow_answer_explains_is_no_skew():
    assert check_clock_skew(visited(node(clock_offset_s=6.0, clock_uncertainty_s=2.0))).state == "ok"
    assert check_clock_skew(visited(node(clock_offset_s=6.0, clock_uncertainty_s=0.1))).state == "wrong"

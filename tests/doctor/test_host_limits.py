import resource
from pathlib import Path

import pytest

from hrnet_ray.doctor import host_limits


def test_a_container_limit_is_read_in_bytes(tmp_path: Path):
    (tmp_path / "memory.current").write_text("300\n")

    (tmp_path / "memory.max").write_text("1000\n")
    assert host_limits.read_cgroup_limit(tmp_path) == (1000, 700)

    (tmp_path / "memory.max").write_text("max\n")
    assert host_limits.read_cgroup_limit(tmp_path) is None


def test_too_little_memory_is_told_with_who_has_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(host_limits, "MIN_MEMORY_GB", 10**6)

    found = host_limits.check_memory()

    assert found.state == "careful"
    assert found.detail.endswith("GB free, a run wants 1000000")
    assert found.fix.startswith("ps -eo pid,rss,args --sort -rss")


def test_shared_memory_smaller_than_the_object_store_is_told(tmp_path: Path):
    found = host_limits.check_shm(tmp_path, memory_bytes=10**18)

    assert found.state == "careful"
    assert found.detail.endswith("GB, Ray's object store would take 300000000.0")
    assert f"mount -o remount,size=300000000G {tmp_path}" in found.fix
    assert host_limits.check_shm(tmp_path, memory_bytes=1000).state == "ok"
    assert host_limits.check_shm(tmp_path / "none").state == "ok"


def test_few_open_files_are_worth_a_warning():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, hard))
    try:
        found = host_limits.check_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    assert found.state == "careful"
    assert found.detail == "ulimit -n is 1,000, Ray wants 4,096"
    assert found.fix.startswith(("ulimit -n ", "sudo prlimit"))


@pytest.mark.parametrize(
    ("environment", "state"),
    [
        ({}, "ok"),
        ({"OMP_WAIT_POLICY": "passive"}, "ok"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "careful"),
    ],
)
def test_spinning_threads_are_told(environment: dict[str, str], state: str):
    found = host_limits.check_omp_threads(environment)

    assert found.state == state
    assert found.fix == ("export OMP_WAIT_POLICY=PASSIVE" if state == "careful" else "")

"""The stop request: every rank stops after the same step."""

from pathlib import Path

import pytest

from hrnet_ray.runs import stop_request
from hrnet_ray.runs.stop_request import CHECK_INTERVAL_S, StopFlag
from tests.utils.two_workers import together

STEPS = 400


def test_no_request_is_written_where_no_training_runs(tmp_path: Path):
    assert not stop_request.request_stop(tmp_path)
    assert not stop_request.request_stop(tmp_path / "nowhere")
    assert not (tmp_path / "stop_request").exists()


def test_the_request_of_an_earlier_command_is_ignored(tmp_path: Path):
    stop_request.write_state(tmp_path, "stop")

    flag = StopFlag(tmp_path, is_rank0=True)

    assert not flag.should_stop()


def test_a_request_is_seen_within_two_seconds_with_few_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, reads = 0.0, 0

    def read_and_count(folder: Path) -> str:
        nonlocal reads
        reads += 1
        return (folder / "stop_request").read_text()

    monkeypatch.setattr(stop_request.time, "monotonic", lambda: now)
    monkeypatch.setattr(stop_request, "read_state", read_and_count)
    flag = StopFlag(tmp_path, is_rank0=True)
    for step in range(STEPS):
        now += 0.01 if step < STEPS / 2 else 0.1  # steps may become slower
        assert not flag.should_stop()
    assert reads < 2 + now / CHECK_INTERVAL_S
    requested_s = now
    (tmp_path / "stop_request").write_text("stop")

    while not flag.should_stop():
        now += 0.1

    assert now - requested_s <= 2 * CHECK_INTERVAL_S


def test_an_unwritable_disk_stops_no_training(tmp_path: Path):
    flag = StopFlag(tmp_path / "missing", is_rank0=True)

    assert not flag.should_stop()
    flag.mark_saved()
    flag.clear_flag()


def _stop_after_50_steps(rank: int, folder: Path) -> None:
    flag = StopFlag(folder, is_rank0=rank == 0)
    for step in range(10**6):
        if rank == 0 and step == 50:
            assert stop_request.request_stop(folder)
        if flag.should_stop():
            (folder / f"stopped_{rank}").write_text(str(step))
            break
    flag.mark_saved()


def test_two_workers_stop_after_the_same_step(tmp_path: Path):
    together(_stop_after_50_steps, tmp_path)

    steps = [(tmp_path / f"stopped_{rank}").read_text() for rank in range(2)]
    assert steps[0] == steps[1]
    assert stop_request.read_state(tmp_path) == "saved"

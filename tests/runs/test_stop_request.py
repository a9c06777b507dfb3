"""One word in a file: a training is asked to stop, and every worker does so after the same step."""

from pathlib import Path

import pytest

from hrnet_ray.runs import signals, stop_request
from hrnet_ray.runs.signals import save_on_interrupt
from hrnet_ray.runs.stop_request import CHECK_INTERVAL_S, StopFlag
from tests.utils.two_workers import together

STEPS = 400


def test_nobody_is_asked_where_nobody_trains(tmp_path: Path):
    assert not stop_request.request_stop(tmp_path)
    assert not stop_request.request_stop(tmp_path / "nowhere")
    assert not (tmp_path / "stop").exists()


def test_what_an_earlier_command_was_asked_is_old(tmp_path: Path):
    stop_request.write_state(tmp_path, "stop")

    sign = StopFlag(tmp_path, is_rank0=True)

    assert not sign.should_stop()


def test_it_is_seen_within_a_second_or_two_and_looked_for_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now, looks = 0.0, 0

    def look(folder: Path) -> str:
        nonlocal looks
        looks += 1
        return (folder / "stop").read_text()

    monkeypatch.setattr(stop_request.time, "monotonic", lambda: now)
    monkeypatch.setattr(stop_request, "read_state", look)
    sign = StopFlag(tmp_path, is_rank0=True)
    for step in range(STEPS):
        now += 0.01 if step < STEPS / 2 else 0.1  # steps may become slower
        assert not sign.should_stop()
    assert looks < 2 + now / CHECK_INTERVAL_S
    asked = now
    (tmp_path / "stop").write_text("stop")

    while not sign.should_stop():
        now += 0.1

    assert now - asked <= 2 * CHECK_INTERVAL_S


def test_a_disk_that_cannot_be_written_stops_nothing(tmp_path: Path):
    sign = StopFlag(tmp_path / "gone", is_rank0=True)

    assert not sign.should_stop()
    sign.mark_saved()
    sign.clear_flag()


def _count(rank: int, folder: Path) -> None:
    sign = StopFlag(folder, is_rank0=rank == 0)
    for step in range(10**6):
        if rank == 0 and step == 50:
            assert stop_request.request_stop(folder)
        if sign.should_stop():
            (folder / f"stopped_{rank}").write_text(str(step))
            break
    sign.mark_saved()


def test_two_workers_stop_after_the_same_step(tmp_path: Path):
    together(_count, tmp_path)

    steps = [(tmp_path / f"stopped_{rank}").read_text() for rank in range(2)]
    assert steps[0] == steps[1]
    assert stop_request.read_state(tmp_path) == "saved"


def test_whoever_is_interrupted_waits_for_those_who_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(signals, "SAVE_TIMEOUT_S", 0.3)
    folders = [tmp_path / name for name in ("quick", "slow", "over")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[:2]:
        StopFlag(folder, is_rank0=True)

    def sleep(_: float) -> None:
        stop_request.write_state(folders[0], "saved")

    monkeypatch.setattr(signals.time, "sleep", sleep)
    with (
        pytest.raises(KeyboardInterrupt),
        save_on_interrupt(lambda: folders, skip_if=lambda: False),
    ):
        raise KeyboardInterrupt

    assert capsys.readouterr().out.splitlines() == [
        "stopping: saving first (once more to stop at once)",
        f"{folders[1]}: not saved within 0 s, goes on from its last epoch",
    ]
    assert [stop_request.read_state(folder) for folder in folders] == ["saved", "stop", ""]


def test_of_a_lost_cluster_nobody_is_asked(tmp_path: Path):
    StopFlag(tmp_path, is_rank0=True)

    with (
        pytest.raises(KeyboardInterrupt),
        save_on_interrupt(lambda: [tmp_path], skip_if=lambda: True),
    ):
        raise KeyboardInterrupt

    assert stop_request.read_state(tmp_path) == "training"

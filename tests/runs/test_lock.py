"""Of two commands in one folder, the second one is told who the first one is."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from ray import tune

from hrnet_ray.distributed.training.train import train_experiment
from hrnet_ray.distributed.tuning.tune import SearchConfig, run_study
from hrnet_ray.errors import ClusterError
from hrnet_ray.runs import lock
from hrnet_ray.runs.lock import LOCK_FILE, RunLock
from hrnet_ray.runs.run_dir import open_run_dir

HOLDER = """
import sys, time
from pathlib import Path
from hrnet_ray.runs.lock import Lease
with Lease(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lease of `tmp_path`."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def left_behind(folder: Path, *, age_s: float = 0, **about: object) -> Path:
    """The lease of somebody on another machine, last touched so long ago."""
    path = folder / LOCK_FILE
    told = {"pid": 7, "host": "far", "processes": "", "born": 1.0, "since": "then", "token": "x"}
    path.write_text(json.dumps(told | about))
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def test_it_is_there_while_it_is_held_and_says_who_holds_it(tmp_path: Path):
    with RunLock(tmp_path):
        told = json.loads((tmp_path / LOCK_FILE).read_text())
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]

    assert (told["pid"], told["host"]) == (os.getpid(), lock.platform.node())
    assert list(tmp_path.iterdir()) == []


def test_a_second_command_is_refused_at_once_and_told_who_is_there(
    holder: subprocess.Popen, tmp_path: Path
):
    since = json.loads((tmp_path / LOCK_FILE).read_text())["since"]
    started = time.monotonic()

    with (
        pytest.raises(ClusterError, match="this run is going on already") as refused,
        RunLock(tmp_path),
    ):
        pass

    assert time.monotonic() - started < 5
    told = f"{tmp_path}: process {holder.pid} on {lock.platform.node()} since {since}"
    assert refused.value.where == told
    assert refused.value.exit_code == 4
    assert (tmp_path / LOCK_FILE).exists()


def test_what_a_killed_command_left_is_taken_over_in_a_line(
    holder: subprocess.Popen, tmp_path: Path, capsys: pytest.CaptureFixture
):
    holder.kill()
    holder.wait()

    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()

    assert capsys.readouterr().out.startswith(
        f"taking over {tmp_path} from process {holder.pid} on "
    )


def test_a_number_that_is_another_process_by_now_holds_nothing(tmp_path: Path):
    left_behind(
        tmp_path, pid=os.getpid(), host=lock.platform.node(), processes=lock._read_pid_namespace()
    )

    with RunLock(tmp_path):
        pass


def test_a_fresh_lease_of_another_machine_is_left_alone(tmp_path: Path):
    left_behind(tmp_path, age_s=50)

    with pytest.raises(ClusterError, match="process 7 on far since then"), RunLock(tmp_path):
        pass


@pytest.mark.parametrize("age_s", [61, 3600, -3600], ids=["a minute", "an hour", "tomorrow's"])
def test_a_lease_that_nobody_touches_is_taken_over(
    age_s: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "STALE_WATCH_S", 0.5)
    left_behind(tmp_path, age_s=age_s)

    with RunLock(tmp_path):
        assert json.loads((tmp_path / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_a_lease_that_only_a_clock_calls_old_is_left_alone(
    holder: subprocess.Popen, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock.time, "time", lambda: 3600 + time.time_ns() / 1e9)
    started = time.monotonic()

    with pytest.raises(ClusterError, match="going on already"), RunLock(tmp_path):
        pass

    assert time.monotonic() - started < 5


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"pid": "me"}', b'{"token": 3}'])
def test_a_lease_that_says_nothing_counts_by_its_age(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "STALE_WATCH_S", 0.1)
    path = left_behind(tmp_path)
    path.write_bytes(content)

    with pytest.raises(ClusterError), RunLock(tmp_path):
        pass
    os.utime(path, (1, 1))
    with RunLock(tmp_path):
        pass


def test_a_living_lease_that_was_moved_by_mistake_is_put_back(tmp_path: Path):
    path = left_behind(tmp_path)

    assert not RunLock(tmp_path)._try_move_aside({"token": "of somebody before"})

    assert json.loads(path.read_text())["token"] == "x"
    assert [entry.name for entry in tmp_path.iterdir()] == [LOCK_FILE]


def test_whoever_loses_it_while_asleep_stops_and_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)

    def sleep_and_lose_it() -> None:
        with RunLock(tmp_path):
            left_behind(tmp_path)
            time.sleep(5)

    with pytest.raises(ClusterError, match="another command took this run over") as stopped:
        sleep_and_lose_it()

    assert "process 7 on far since then" in stopped.value.where
    assert (tmp_path / LOCK_FILE).exists()  # the other's


def test_it_is_touched_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.05)

    with RunLock(tmp_path):
        os.utime(tmp_path / LOCK_FILE, (1, 1))
        time.sleep(0.3)
        assert abs((tmp_path / LOCK_FILE).stat().st_mtime - time.time()) < 5


def test_ctrl_c_lets_go_of_it(tmp_path: Path):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's `&` ignores it
    try:
        with pytest.raises(KeyboardInterrupt), RunLock(tmp_path):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)

    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links_has_leases_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lock.os, "link", refuse)

    with (
        RunLock(tmp_path),
        pytest.raises(ClusterError, match=f"process {os.getpid()} on "),
        RunLock(tmp_path),
    ):
        pass

    assert list(tmp_path.iterdir()) == []


def test_a_run_or_a_search_that_goes_on_already_is_refused_before_ray_starts(tiny, here, tigers):
    folder = open_run_dir(tiny, here, tigers)
    started = time.monotonic()

    with RunLock(folder), pytest.raises(ClusterError, match="going on already"):
        train_experiment(tiny, here)
    space = {"optim.lr": tune.loguniform(1e-4, 1e-2)}
    study = replace(tiny, name="study")
    folder = folder.with_name("study")
    folder.mkdir()
    with RunLock(folder), pytest.raises(ClusterError, match="going on already"):
        run_study(study, space, here, SearchConfig(num_trials=1))

    assert time.monotonic() - started < 5

"""Fault injection: parsed or refused, each fault once, and nothing without faults."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch

from hrnet_ray.data.batch import TrainBatch
from hrnet_ray.errors import UsageError
from hrnet_ray.training.fault_injection import (
    ALLOW_FAULTS_ENV_VAR,
    FAULTS_ENV_VAR,
    FIRST_STEPS_FILE,
    FaultInjector,
    InjectedFault,
    get_fault_env_vars,
    parse_faults,
)


def make_batches(count: int) -> list[TrainBatch]:
    points = torch.zeros(2, 3, 2)
    return [TrainBatch(torch.ones(2, 3, 4, 6), points, points[..., 0] > 0) for _ in range(count)]


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv(ALLOW_FAULTS_ENV_VAR, "1")
    return monkeypatch


def find_nan_steps(injector: FaultInjector, *, epoch: int, steps: int = 4) -> list[int]:
    """The steps of an epoch whose batch is NaN."""
    wrapped = list(injector.wrap_train_batches(iter(make_batches(steps)), epoch=epoch))
    return [step for step, batch in enumerate(wrapped) if batch.crops.isnan().all()]


def test_faults_are_parsed():
    assert parse_faults("kill:rank=1,epoch=3,step=10; nan:step=40;hang:at=validation;kill:at=end;") == [
        InjectedFault(kind="kill", rank=1, epoch=3, step=10),
        InjectedFault(kind="nan", step=40),
        InjectedFault(kind="hang", point="validation"),
        InjectedFault(kind="kill", point="end"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "flood:step=1",
        "kill:step=x",
        "kill:node=1",
        "kill:at=noon",
        "nan:at=end",
        "hang:at=end,step=1",
    ],
)
def test_a_malformed_fault_is_refused(text: str, allowed):
    allowed.setenv(FAULTS_ENV_VAR, text)

    with pytest.raises(UsageError, match="invalid fault"):
        get_fault_env_vars()


def test_without_permission_faults_are_ignored_with_one_line(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(FAULTS_ENV_VAR, "nan:step=0")

    assert get_fault_env_vars() == {}
    assert capsys.readouterr().out.count(FAULTS_ENV_VAR) == 1
    assert find_nan_steps(FaultInjector(tmp_path, rank=0), epoch=0) == []
    assert list(tmp_path.iterdir()) == []


def test_without_faults_the_batches_are_not_wrapped(tmp_path: Path):
    injector, unwrapped = FaultInjector(tmp_path, rank=0), iter(make_batches(1))

    assert injector.wrap_train_batches(unwrapped, epoch=0) is unwrapped
    assert injector.wrap_val_batches(unwrapped, epoch=0) is unwrapped
    assert get_fault_env_vars() == {}


def test_a_fault_hits_its_worker_at_its_step_once_per_run(allowed, tmp_path):
    allowed.setenv(FAULTS_ENV_VAR, "nan:rank=1,epoch=2,step=3;nan:rank=1,epoch=2,step=3;nan:rank=1,step=0")

    assert find_nan_steps(FaultInjector(tmp_path, rank=0), epoch=2) == []
    worker = FaultInjector(tmp_path, rank=1)
    assert [find_nan_steps(worker, epoch=epoch) for epoch in (1, 2, 3)] == [[0], [3], []]
    restarted = FaultInjector(tmp_path, rank=1)
    assert [find_nan_steps(restarted, epoch=epoch) for epoch in (1, 2, 2)] == [[], [3], []]

    marks = sorted((tmp_path / "debug" / "faults").iterdir())
    assert [path.name for path in marks] == [
        "00-nan.json",
        "01-nan.json",
        "02-nan.json",
        FIRST_STEPS_FILE,
    ]
    first = json.loads(marks[0].read_text())
    assert (first["rank"], first["epoch"], first["step"]) == (1, 2, 3)
    first_steps = [json.loads(line) for line in marks[3].read_text().splitlines()]
    assert [(entry["rank"], entry["epoch"]) for entry in first_steps] == [(0, 2), (1, 1), (1, 1)]


WORKER = """
import sys
from pathlib import Path
from hrnet_ray.training.fault_injection import FaultInjector

injector = FaultInjector(Path(sys.argv[1]), rank=0)
for epoch in range(3):
    for batch in injector.wrap_val_batches(iter(range(2)), epoch=epoch):
        print(epoch, batch, flush=True)
    injector.maybe_inject("end", epoch=epoch)
"""


def test_a_killed_process_is_replaced_and_gets_further(allowed, tmp_path):
    allowed.setenv(FAULTS_ENV_VAR, "kill:at=end,epoch=1;kill:at=validation,epoch=1,step=1")
    command = [sys.executable, "-c", WORKER, str(tmp_path)]

    results = [subprocess.run(command, capture_output=True, text=True) for _ in range(3)]

    assert [result.returncode for result in results] == [-signal.SIGKILL, -signal.SIGKILL, 0]
    assert [result.stdout.split("\n")[-2] for result in results] == ["1 0", "1 1", "2 1"]


def test_a_hanging_process_exists_and_does_nothing(allowed, tmp_path):
    allowed.setenv(FAULTS_ENV_VAR, "hang:at=validation,epoch=0,step=1")
    command = [sys.executable, "-c", WORKER, str(tmp_path)]

    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        process.send_signal(signal.SIGCONT)
        assert len(process.communicate()[0].splitlines()) == 6

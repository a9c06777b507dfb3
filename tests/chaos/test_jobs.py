"""`ray job`: the documented command, exit codes, a clean stop, and authentication."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress

import psutil
import pytest

from hrnet_ray.runs.event_log import read_metrics
from tests.ray_head import Head, ray_head

pytestmark = pytest.mark.chaos

EPOCHS = 16  # enough to be stopped in between
LOOPBACK = ("127.0.0.1", "::1", "::ffff:127.0.0.1")
MODEL_FLAGS = "--data.input-hw 32 64 --model.width 4 --model.modules 1 1 1 --model.blocks 1 --model.stem 8"


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    with ray_head(tmp_path_factory.mktemp("head")) as started:
        yield started


def request_status(head: Head, path: str, token: str | None) -> int:
    """The status of a GET request."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(head.address + path, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as refused:
        return refused.code


def driver_exit_codes(head: Head) -> dict[str, int]:
    """The exit code of each finished job by submission id."""
    request = urllib.request.Request(
        f"{head.address}/api/jobs/",
        headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
    )
    with urllib.request.urlopen(request) as answer:
        return {job["submission_id"]: job["driver_exit_code"] for job in json.load(answer)}


def test_the_documented_command_runs_and_names_the_missing_dataset(head):
    submitted = head.submit("--submission-id", "literal", "experiments/tune_atrw.py")

    assert submitted.returncode == 1
    assert "error:" in submitted.stdout
    assert "data/atrw" in submitted.stdout
    assert "Traceback" not in submitted.stdout
    assert driver_exit_codes(head)["literal"] == 3


@pytest.mark.parametrize(
    ("code", "flags"),
    [
        (0, "--help"),
        (2, "--optm.lr 3"),
        (3, "--data.root nowhere"),
        (4, "--data.root {root} --cluster.device gpu --cluster.storage-path {storage}"),
    ],
)
def test_exit_codes_reach_the_client(head, tigers, tmp_path, code: int, flags: str):
    words = flags.format(root=tigers.root, storage=tmp_path).split()

    submitted = head.submit("--submission-id", f"code-{code}", "--", "python", "experiments/tune_atrw.py", *words)

    assert submitted.returncode == (1 if code else 0), submitted.stdout
    assert driver_exit_codes(head)[f"code-{code}"] == code


def test_a_stopped_job_resumes_from_its_last_epoch(head, tigers, tmp_path):
    words = [
        *("experiments/train_atrw.py", "--name", "stopped", "--data.root", str(tigers.root)),
        *MODEL_FLAGS.split(),
        *(
            "--optim.epochs",
            str(EPOCHS),
            "--optim.batch-size",
            "4",
            "--cluster.storage-path",
            str(tmp_path),
        ),
    ]
    run = tmp_path / "tigers" / "stopped"
    head.submit("--submission-id", "stopped", "--no-wait", "--", *words)
    deadline = time.monotonic() + 120
    while len(read_metrics(run)) < 2:
        assert time.monotonic() < deadline, head.job("logs", "stopped").stdout
        time.sleep(0.2)

    started_s = time.monotonic()
    stopped = head.job("stop", "stopped")
    print(f"stopped in {time.monotonic() - started_s:.1f} s")

    assert "was stopped" in stopped.stdout, stopped.stdout + stopped.stderr
    assert "Interrupted. Run the same command to resume." in head.job("logs", "stopped").stdout
    done = len(read_metrics(run))
    assert done < EPOCHS
    again = head.submit("--submission-id", "again", "--", *words)
    assert f"Resuming {run} from epoch {done}" in again.stdout
    assert again.returncode == 0, again.stdout[-2000:]
    assert [entry["epoch"] for entry in read_metrics(run)] == list(range(1, EPOCHS + 1))


def test_a_request_without_the_right_token_is_refused(head):
    right = os.environ["RAY_AUTH_TOKEN"]

    assert request_status(head, "/api/jobs/", None) == 401
    assert request_status(head, "/api/jobs/", "0" * 64) in (401, 403)
    assert request_status(head, "/api/jobs/", right) == 200
    refused = head.job("list", token="0" * 64)
    assert refused.returncode != 0
    assert right not in refused.stdout + refused.stderr


def test_the_token_is_in_no_log_and_no_command_line(head):
    token = os.environ["RAY_AUTH_TOKEN"].encode()

    for process in psutil.process_iter():
        with suppress(psutil.Error):
            assert token.decode() not in " ".join(process.cmdline())
    logs = [path for path in head.session.rglob("*") if path.is_file() and not path.is_symlink()]
    assert len(logs) > 10
    assert [path for path in logs if token in path.read_bytes()] == []


def test_nothing_listens_beyond_loopback(head):
    open_to = {
        connection.laddr.ip
        for process in head.family()
        for connection in process.net_connections()
        if connection.status == psutil.CONN_LISTEN
    }

    assert open_to
    assert open_to <= set(LOOPBACK)

"""The JSON lines of a run, and the monitor that prints them."""

import json

from hrnet_ray.runs.event_log import append_metrics, log_event, read_events, read_metrics
from hrnet_ray.runs.progress import ProgressMonitor, ProgressReporter


def _epoch(number: int, ap: float) -> dict[str, float]:
    return {
        "epoch": number,
        "train/loss": 0.00125,
        "val/OKS_AP": ap,
        "perf/epoch_s": 90.0,
        "perf/images_per_sec": 150.0,
    }


def test_epochs_are_read_in_order_and_a_repeated_one_once(tmp_path):
    for number, ap in ((1, 0.1), (2, 0.2), (2, 0.3), (3, 0.4)):  # epoch 2 was repeated
        append_metrics(tmp_path, _epoch(number, ap))

    assert [(e["epoch"], e["val/OKS_AP"]) for e in read_metrics(tmp_path)] == [
        (1, 0.1),
        (2, 0.3),
        (3, 0.4),
    ]


def test_a_truncated_line_is_ignored(tmp_path):
    append_metrics(tmp_path, _epoch(1, 0.1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "val/OK')

    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [1]


def test_a_line_after_a_truncated_one_starts_on_its_own(tmp_path):
    for rest in (b'{"epoch": 7, "val/OK', b"\xff\x00", b"12"):
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(rest)
        append_metrics(tmp_path, _epoch(1, 0.2))

    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [1]


def test_the_monitor_prints_a_new_event_once(tmp_path, capsys):
    log_event(tmp_path, "failed_save", "an old one")
    monitor = ProgressMonitor(lambda: {"#01 ": tmp_path}, epochs=3, on_epoch=lambda folder, entry: None)
    capsys.readouterr()

    with monitor:
        log_event(tmp_path, "failed_save", "no room")

    assert read_events(tmp_path) == ["an old one", "no room"]
    assert capsys.readouterr().out == "no room\n#01 no room\n"  # the worker, and the driver


def test_the_monitor_prints_a_new_epoch_once(tmp_path, capsys):
    append_metrics(tmp_path, _epoch(1, 0.1))  # from an earlier command
    reported = []

    monitor = ProgressMonitor(
        lambda: {"#01 ": tmp_path},
        epochs=3,
        on_epoch=lambda folder, entry: reported.append(entry["epoch"]),
    )
    with monitor:
        append_metrics(tmp_path, _epoch(2, 0.25))

    assert reported == [2]
    assert capsys.readouterr().out == ("#01 epoch   2/3  loss 1.25e-03  OKS_AP 0.250  150 img/s  1:30 left\n")


def test_the_monitor_survives_a_storage_error(tmp_path, capsys):
    stuck = tmp_path / "metrics.jsonl"
    stuck.symlink_to(stuck)  # every read of it is an OSError

    with ProgressMonitor(lambda: {"": tmp_path}, epochs=3) as monitor:
        monitor._poll_run_dirs()
        stuck.unlink()
        append_metrics(tmp_path, _epoch(1, 0.25))

    assert capsys.readouterr().out.startswith("epoch   1/3")


def test_a_worker_writes_the_progress_of_its_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr("hrnet_ray.runs.progress.UPDATE_INTERVAL_S", 0.0)
    reporter = ProgressReporter(tmp_path, epochs=5, active=True)

    reporter.start_epoch(2, num_crops=100)
    reporter.record_step(32, mean_loss=lambda: 0.25)

    progress = json.loads((tmp_path / "progress.json").read_text())
    assert progress.pop("rate") > 0
    assert progress == {"epoch": 2, "epochs": 5, "done": 32, "of": 100, "loss": 0.25}

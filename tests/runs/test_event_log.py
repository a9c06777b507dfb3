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


def test_epochs_come_back_in_order_each_once(tmp_path):
    for number, ap in ((0, 0.1), (1, 0.2), (1, 0.3), (2, 0.4)):  # epoch 1 was done twice
        append_metrics(tmp_path, _epoch(number, ap))

    assert [(e["epoch"], e["val/OKS_AP"]) for e in read_metrics(tmp_path)] == [
        (0, 0.1),
        (1, 0.3),
        (2, 0.4),
    ]


def test_a_line_that_a_crash_cut_short_costs_only_itself(tmp_path):
    append_metrics(tmp_path, _epoch(0, 0.1))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 1, "val/OK')

    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [0]


def test_the_next_line_does_not_grow_onto_one_that_was_cut_short(tmp_path):
    for rest in (b'{"epoch": 7, "val/OK', b"\xff\x00", b"12"):
        with (tmp_path / "metrics.jsonl").open("ab") as file:
            file.write(rest)
        append_metrics(tmp_path, _epoch(1, 0.2))

    assert [entry["epoch"] for entry in read_metrics(tmp_path)] == [1]


def test_a_fault_is_told_once_by_whoever_watches(tmp_path, capsys):
    log_event(tmp_path, "failed_save", "an old one")
    watch = ProgressMonitor(
        lambda: {"#01 ": tmp_path}, epochs=3, on_epoch=lambda folder, entry: None
    )
    capsys.readouterr()

    with watch:
        log_event(tmp_path, "failed_save", "no room")

    assert read_events(tmp_path) == ["an old one", "no room"]
    assert capsys.readouterr().out == "no room\n#01 no room\n"  # the worker, and the driver


def test_each_new_epoch_is_told_once_and_in_words(tmp_path, capsys):
    append_metrics(tmp_path, _epoch(0, 0.1))  # from an earlier command
    told = []

    watch = ProgressMonitor(
        lambda: {"#01 ": tmp_path},
        epochs=3,
        on_epoch=lambda folder, entry: told.append(entry["epoch"]),
    )
    with watch:
        append_metrics(tmp_path, _epoch(1, 0.25))

    assert told == [1]
    assert capsys.readouterr().out == (
        "#01 epoch   2/3  loss 1.25e-03  OKS_AP 0.250  150 pictures/s  1:30 left\n"
    )


def test_a_storage_that_hiccups_ends_neither_the_telling_nor_the_run(tmp_path, capsys):
    stuck = tmp_path / "metrics.jsonl"
    stuck.symlink_to(stuck)  # every look at it is an OSError

    with ProgressMonitor(lambda: {"": tmp_path}, epochs=3) as watch:
        watch._poll_run_dirs()
        stuck.unlink()
        append_metrics(tmp_path, _epoch(0, 0.25))

    assert capsys.readouterr().out.startswith("epoch   1/3")


def test_a_worker_notes_how_far_its_epoch_is(tmp_path, monkeypatch):
    monkeypatch.setattr("hrnet_ray.runs.progress.UPDATE_INTERVAL_S", 0.0)
    pulse = ProgressReporter(tmp_path, epochs=5, active=True)

    pulse.start_epoch(2, num_crops=100)
    pulse.record_step(32)

    note = json.loads((tmp_path / "progress.json").read_text())
    assert (note["epoch"], note["done"], note["of"], note["epochs"]) == (2, 32, 100, 5)

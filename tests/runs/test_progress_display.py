import io
import re

from rich.console import Console

from hrnet_ray.runs.progress_display import EpochProgress, ProgressDisplay, format_clock


def make_terminal(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, highlight=False)


def read_lines(console: Console) -> list[str]:
    """Every line that the terminal displayed, without control sequences."""
    text = console.file.getvalue()  # type: ignore[attr-defined]
    return [line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)) if line]


def test_a_row_shows_epoch_loss_rate_and_the_time_left_within_80_columns():
    console = make_terminal()
    with ProgressDisplay(console) as display:
        display.update_row(
            "#01 optim.lr=0.00069 heatmap.sigma=1.5",
            EpochProgress(2, 140, 424, 878, crops_per_s=31.0, loss=2.31e-4),
        )

    rows = [line.rstrip() for line in read_lines(console) if "img/s" in line]
    assert rows
    assert max(map(len, rows)) <= 80
    assert rows[-1].startswith("#01 optim.lr=0.00069 …")
    assert rows[-1].endswith("loss 2.31e-04 31 img/s 0:14 left")
    assert "epoch 2/140" in rows[-1]


def test_a_removed_row_disappears():
    console = make_terminal()
    with ProgressDisplay(console) as display:
        display.update_row("#01", EpochProgress(1, 2, 0, 10, crops_per_s=1.0))
        display.remove_row("#01")
        display.remove_row("#02")  # has no row
        console.file.seek(0)
        console.file.truncate()
        display.update_row("#03", EpochProgress(1, 2, 5, 10, crops_per_s=1.0))

    output = " ".join(read_lines(console))
    assert "#03" in output
    assert "#01" not in output


def test_an_epoch_without_a_step_has_no_loss_and_an_unknown_rate_leaves_a_finite_time():
    progress = EpochProgress(1, 2, 0, 10, crops_per_s=0.0)

    assert progress.loss is None
    assert progress.left_s == 1e10
    assert EpochProgress(1, 2, 10, 10, crops_per_s=0.0).left_s == 0


def test_durations_are_written_as_minutes_or_hours():
    assert [format_clock(s) for s in (4.9, 65.0, 3600.0, 36_061.0)] == [
        "0:04",
        "1:05",
        "1:00:00",
        "10:01:01",
    ]

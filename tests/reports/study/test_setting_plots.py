"""Plots are read back from their pixels: marks must be at the expected positions."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.reports.study import learning_curves, setting_plots
from hrnet_ray.reports.study.learning_curves import OUTCOME_COLORS
from hrnet_ray.reports.study.per_keypoint import select_comparable_trials
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, load_study
from tests.reports.study.studies import write_study

SETTING_PAIR = ("optim.lr", "heatmap.sigma")
ODD = ["$adam$", "a" * 80, "x\x1b[31m"]  # special to matplotlib or to a terminal
YELLOW = (0xFD, 0xE7, 0x25)


def to_rgb(hexadecimal: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(hexadecimal[1:]))  # type: ignore[return-value]


BEST = to_rgb(setting_plots.BEST_COLOR)


def find_pixels(image: np.ndarray, color: tuple[int, int, int], *, tolerance: int = 0) -> np.ndarray:
    """(x, y) of all pixels of about a colour, [N, 2]."""
    return np.argwhere((abs(image.astype(int) - color) <= tolerance).all(-1))[:, ::-1]


def make_grid_study(tmp_path: Path, rates: list[float], sigmas: list[float]) -> StudyResults:
    """A completed trial for each pair of learning rate and heatmap sigma."""
    pairs = iter([(lr, sigma) for lr in rates for sigma in sigmas])
    return load_study(
        write_study(
            tmp_path,
            trials=len(rates) * len(sigmas),
            rungs=(),
            draw=lambda rng: dict(zip(SETTING_PAIR, next(pairs), strict=True)),
        )
    )


def test_the_star_of_the_score_map_is_at_the_best_settings(tmp_path: Path):
    study = make_grid_study(tmp_path, [6e-5, 6e-4, 6e-3], [1.0, 2.0, 4.0])
    assert study.best_trial.sampled_params == {"optim.lr": 6e-4, "heatmap.sigma": 2.0}

    setting_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=SETTING_PAIR)

    image = codec.read_image(tmp_path / "map.png")
    image = image[: int(0.9 * len(image)), : int(0.87 * image.shape[1])]  # no legend
    left, right, top, bottom = find_frame(image)
    x, y = find_pixels(image, BEST).mean(axis=0)
    assert (x - left) / (right - left) == pytest.approx(0.5, abs=0.01)
    assert (bottom - y) / (bottom - top) == pytest.approx((0.06 + 1 / 3) / 1.12, abs=0.015)


def find_frame(image: np.ndarray) -> tuple[int, int, int, int]:
    """Left, right, top and bottom of the black frame around a plot."""
    dark = (image < 150).all(-1)
    columns, rows = (np.flatnonzero(dark.mean(axis) > 0.6) for axis in (0, 1))
    return columns[0], columns[-1], rows[0], rows[-1]


@pytest.mark.parametrize(("sigmas", "is_interpolated"), [([1.0, 2.0], False), ([1.0, 2.0, 4.0], True)])
def test_the_score_map_is_interpolated_between_enough_trials(
    tmp_path: Path, sigmas: list[float], is_interpolated: bool
):
    study = make_grid_study(tmp_path, [1e-4, 3e-3], sigmas)

    setting_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=SETTING_PAIR)

    image = codec.read_image(tmp_path / "map.png")
    height, width = image.shape[:2]
    middle = image[height // 4 : height // 2, width // 3 : width // 2].astype(int)
    color_fraction = (np.ptp(middle, axis=-1) > 30).mean()
    assert color_fraction > 0.9 if is_interpolated else color_fraction < 0.02


def test_a_score_map_of_trials_on_one_line_is_drawn(tmp_path: Path):
    study = make_grid_study(tmp_path, [1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3, 6e-3], [2.0])

    setting_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=SETTING_PAIR)

    assert len(find_pixels(codec.read_image(tmp_path / "map.png"), BEST)) > 50


def test_with_stopped_trials_a_second_panel_shows_the_common_epochs(tmp_path: Path):
    stopped = load_study(write_study(tmp_path / "a", rungs=(3, 9)))
    completed = load_study(write_study(tmp_path / "b", rungs=()))

    for study in (stopped, completed):
        setting_plots.plot_score_map(study.study_dir / "map.png", study, setting_pair=SETTING_PAIR)

    two_panels, one_panel = (codec.read_image(study.study_dir / "map.png") for study in (stopped, completed))
    assert two_panels.shape[1] == 2 * one_panel.shape[1]


def test_the_line_of_the_best_trial_ends_at_the_top_of_the_last_axis(tmp_path: Path):
    study = load_study(write_study(tmp_path, failed={5: "nan"}))

    setting_plots.plot_parallel_coordinates(tmp_path / "parallel.png", study)

    image = codec.read_image(tmp_path / "parallel.png")
    line = find_pixels(image[: int(0.9 * image.shape[0])], BEST)  # without the legend
    first, last = line[line[:, 0].argmin()], line[line[:, 0].argmax()]
    assert last[0] - first[0] > 300
    assert last[1] <= line[:, 1].min() + 6  # the top
    assert first[1] > last[1] + 20


def test_each_setting_has_a_star(tmp_path: Path):
    study = load_study(write_study(tmp_path))

    setting_plots.plot_score_by_setting(tmp_path / "settings.png", study)

    columns = np.unique(find_pixels(codec.read_image(tmp_path / "settings.png"), BEST)[:, 0])
    assert (np.diff(columns) > 50).sum() == 1  # two groups


def test_the_cells_of_winners_are_bright(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=()))
    trials = select_comparable_trials(study)
    labels = {trial.name: trial.name for trial in trials}

    setting_plots.plot_keypoint_heatmap(tmp_path / "keypoints.png", trials, labels=labels, metric_name="OKS")

    image = codec.read_image(tmp_path / "keypoints.png")
    bright = find_pixels(image[:, : int(0.85 * image.shape[1])], YELLOW, tolerance=3)
    rows = np.unique(bright[:, 1])
    height = image.shape[0]
    assert np.ptp(rows) > 0.8 * height  # in the first row and in the last


def test_stopped_trials_are_pale_and_end_at_their_last_epoch(tmp_path: Path):
    study = load_study(write_study(tmp_path, epochs=24, rungs=(12,)))

    learning_curves.plot_learning_curves(tmp_path / "rungs.png", study)

    image = codec.read_image(tmp_path / "rungs.png")
    curves = image[: len(image) // 2]  # without the legend and the active trials
    best, pale = find_pixels(curves, BEST), find_pixels(curves, (0xB2, 0xD1, 0xE6), tolerance=20)
    left, right = best[:, 0].min(), best[:, 0].max()
    rung = left + 11 / 23 * (right - left)  # from epoch 1 to 12 of 24
    before, after = (pale[:, 0] < rung + 5).sum(), (pale[:, 0] >= rung + 5).sum()
    assert before > 500
    assert after < before / 4  # antialiased edges of the lines that continue


def test_bars_are_as_long_as_the_durations(tmp_path: Path):
    study = load_study(write_study(tmp_path, trials=3, epochs=20, rungs=(10,)))

    learning_curves.plot_trial_cost(tmp_path / "cost.png", study)

    image = codec.read_image(tmp_path / "cost.png")[90:]  # below the legend
    best = find_pixels(image, BEST)
    stopped = find_pixels(image, to_rgb(OUTCOME_COLORS[TrialOutcome.STOPPED]), tolerance=2)
    ratio = np.ptp(best[:, 0]) / np.ptp(stopped[:, 0])
    longest = max(trial.duration_s for trial in study.select_by_outcome(TrialOutcome.STOPPED))
    assert ratio == pytest.approx(study.best_trial.duration_s / longest, rel=0.03)


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 1, "rungs": ()},
        {"trials": 4, "rungs": (), "failed": {1: "a", 2: "b", 4: "c"}},
        {"trials": 40, "keypoints": ["nose"], "epochs": 6, "rungs": (2,)},
        {"draw": lambda rng: {"model.pretrained": str(rng.choice(ODD))}},
    ],
    ids=["one", "one of four", "forty", "category"],
)
def test_unusual_studies_are_drawn(tmp_path: Path, options: dict):
    study = load_study(write_study(tmp_path, **options))

    learning_curves.plot_learning_curves(tmp_path / "rungs.png", study)
    learning_curves.plot_trial_cost(tmp_path / "cost.png", study)
    setting_plots.plot_parallel_coordinates(tmp_path / "parallel.png", study)
    setting_plots.plot_score_by_setting(tmp_path / "settings.png", study)

    for name in ("rungs", "cost", "parallel", "settings"):
        assert len(find_pixels(codec.read_image(tmp_path / f"{name}.png"), BEST)) > 50

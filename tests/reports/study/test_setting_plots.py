"""Plots are read back: what they show must be where the numbers say."""

from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.images import codec
from hrnet_ray.reports.study import learning_curves as study_curves, setting_plots as study_plots
from hrnet_ray.reports.study.learning_curves import OUTCOME_COLORS
from hrnet_ray.reports.study.per_keypoint import select_comparable_trials
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, load_study
from tests.reports.study.studies import write_study

ACROSS = ("optim.lr", "heatmap.sigma")
ODD = ["$adam$", "a" * 80, "x\x1b[31m"]  # means something to a terminal or to what draws
YELLOW = (0xFD, 0xE7, 0x25)


def colour(hexadecimal: str) -> tuple[int, int, int]:
    return tuple(bytes.fromhex(hexadecimal[1:]))  # type: ignore[return-value]


BEST = colour(study_plots.BEST_COLOR)


def places(picture: np.ndarray, wanted: tuple[int, int, int], *, off: int = 0) -> np.ndarray:
    """(x, y) of all pixels of about a colour, [N, 2]."""
    return np.argwhere((abs(picture.astype(int) - wanted) <= off).all(-1))[:, ::-1]


def a_grid(tmp_path: Path, rates: list[float], sigmas: list[float]) -> StudyResults:
    """A trial for each pair, all trained to the end."""
    pairs = iter([(lr, sigma) for lr in rates for sigma in sigmas])
    return load_study(
        write_study(
            tmp_path,
            trials=len(rates) * len(sigmas),
            rungs=(),
            draw=lambda rng: dict(zip(ACROSS, next(pairs), strict=True)),
        )
    )


def test_the_star_of_the_map_stands_at_the_best_rate_and_sigma(tmp_path: Path):
    study = a_grid(tmp_path, [6e-5, 6e-4, 6e-3], [1.0, 2.0, 4.0])
    assert study.best_trial.sampled_params == {"optim.lr": 6e-4, "heatmap.sigma": 2.0}

    study_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=ACROSS)

    picture = codec.read_image(tmp_path / "map.png")
    picture = picture[: int(0.9 * len(picture)), : int(0.87 * picture.shape[1])]  # no legend
    left, right, top, bottom = frame_of(picture)
    x, y = places(picture, BEST).mean(axis=0)
    assert (x - left) / (right - left) == pytest.approx(0.5, abs=0.01)
    assert (bottom - y) / (bottom - top) == pytest.approx((0.06 + 1 / 3) / 1.12, abs=0.015)


def frame_of(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Left, right, top and bottom of the black frame around a plot."""
    dark = (picture < 150).all(-1)
    columns, rows = (np.flatnonzero(dark.mean(axis) > 0.6) for axis in (0, 1))
    return columns[0], columns[-1], rows[0], rows[-1]


@pytest.mark.parametrize(("sigmas", "flows"), [([1.0, 2.0], False), ([1.0, 2.0, 4.0], True)])
def test_colours_flow_between_trials_when_there_are_enough(
    tmp_path: Path, sigmas: list[float], flows: bool
):
    study = a_grid(tmp_path, [1e-4, 3e-3], sigmas)

    study_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=ACROSS)

    picture = codec.read_image(tmp_path / "map.png")
    height, width = picture.shape[:2]
    middle = picture[height // 4 : height // 2, width // 3 : width // 2].astype(int)
    coloured = (np.ptp(middle, axis=-1) > 30).mean()
    assert coloured > 0.9 if flows else coloured < 0.02


def test_trials_on_one_line_break_no_map(tmp_path: Path):
    study = a_grid(tmp_path, [1e-4, 2e-4, 4e-4, 1e-3, 2e-3, 4e-3, 6e-3], [2.0])

    study_plots.plot_score_map(tmp_path / "map.png", study, setting_pair=ACROSS)

    assert len(places(codec.read_image(tmp_path / "map.png"), BEST)) > 50


def test_stopped_trials_are_also_shown_as_they_were_when_all_were_alike(tmp_path: Path):
    stopped = load_study(write_study(tmp_path / "a", rungs=(3, 9)))
    whole = load_study(write_study(tmp_path / "b", rungs=()))

    for study in (stopped, whole):
        study_plots.plot_score_map(study.study_dir / "map.png", study, setting_pair=ACROSS)

    two, one = (codec.read_image(study.study_dir / "map.png") for study in (stopped, whole))
    assert two.shape[1] == 2 * one.shape[1]


def test_the_best_trial_leads_to_the_top_of_the_last_pillar(tmp_path: Path):
    study = load_study(write_study(tmp_path, failed={5: "nan"}))

    study_plots.plot_parallel_coordinates(tmp_path / "parallel.png", study)

    picture = codec.read_image(tmp_path / "parallel.png")
    line = places(picture[: int(0.9 * picture.shape[0])], BEST)  # without the legend
    first, last = line[line[:, 0].argmin()], line[line[:, 0].argmax()]
    assert last[0] - first[0] > 300
    assert last[1] <= line[:, 1].min() + 6  # the top
    assert first[1] > last[1] + 20


def test_a_star_stands_in_each_setting(tmp_path: Path):
    study = load_study(write_study(tmp_path))

    study_plots.plot_score_by_setting(tmp_path / "settings.png", study)

    columns = np.unique(places(codec.read_image(tmp_path / "settings.png"), BEST)[:, 0])
    assert (np.diff(columns) > 50).sum() == 1  # two groups


def test_the_winners_cells_are_bright(tmp_path: Path):
    study = load_study(write_study(tmp_path, rungs=()))
    trials = select_comparable_trials(study)
    labels = {trial.name: trial.name for trial in trials}

    study_plots.plot_keypoint_heatmap(
        tmp_path / "keypoints.png", trials, labels=labels, metric_name="OKS"
    )

    picture = codec.read_image(tmp_path / "keypoints.png")
    bright = places(picture[:, : int(0.85 * picture.shape[1])], YELLOW, off=3)
    rows = np.unique(bright[:, 1])
    height = picture.shape[0]
    assert np.ptp(rows) > 0.8 * height  # in the first row and in the last


def test_stopped_trials_are_pale_and_end_at_their_rung(tmp_path: Path):
    study = load_study(write_study(tmp_path, epochs=24, rungs=(12,)))

    study_curves.plot_learning_curves(tmp_path / "rungs.png", study)

    picture = codec.read_image(tmp_path / "rungs.png")
    above = picture[: len(picture) // 2]  # without the legend, and who was still training
    best, pale = places(above, BEST), places(above, (0xB2, 0xD1, 0xE6), off=20)
    left, right = best[:, 0].min(), best[:, 0].max()
    rung = left + 11 / 23 * (right - left)  # from epoch 1 to 12 of 24
    before, after = (pale[:, 0] < rung + 5).sum(), (pale[:, 0] >= rung + 5).sum()
    assert before > 500
    assert after < before / 4  # the soft edges of the lines that go on


def test_bars_of_time_are_as_long_as_it_took_and_saved_time_is_hatched(tmp_path: Path):
    study = load_study(write_study(tmp_path, trials=3, epochs=20, rungs=(10,)))

    study_curves.plot_trial_cost(tmp_path / "cost.png", study)

    picture = codec.read_image(tmp_path / "cost.png")[90:]  # below the legend
    best = places(picture, BEST)
    stopped = places(picture, colour(OUTCOME_COLORS[TrialOutcome.STOPPED]), off=2)
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
    ids=["one", "one of four", "forty", "choice"],
)
def test_nothing_is_too_odd_to_draw(tmp_path: Path, options: dict):
    study = load_study(write_study(tmp_path, **options))

    study_curves.plot_learning_curves(tmp_path / "rungs.png", study)
    study_curves.plot_trial_cost(tmp_path / "cost.png", study)
    study_plots.plot_parallel_coordinates(tmp_path / "parallel.png", study)
    study_plots.plot_score_by_setting(tmp_path / "settings.png", study)

    for name in ("rungs", "cost", "parallel", "settings"):
        assert len(places(codec.read_image(tmp_path / f"{name}.png"), BEST)) > 50

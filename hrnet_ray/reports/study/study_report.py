"""The report of a study, from what its folder holds: no server is asked.

STUDY/report.html            the page, complete in itself
STUDY/plots/lr_sigma.png     where the good trials are, over two settings
STUDY/plots/parallel.png     a line for each trial through its settings to its score
STUDY/plots/settings.png     score over each setting by itself
STUDY/plots/speed.png        score against latency, where both were searched for
STUDY/plots/keypoints.png    which trial finds which keypoint best
STUDY/plots/rungs.png        learning curves, and who was stopped when
STUDY/plots/cost.png         time spent and saved
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError
from hrnet_ray.reports.study import learning_curves as study_curves, setting_plots as study_plots
from hrnet_ray.reports.study.cli_command import build_train_argv, format_shell_command
from hrnet_ray.reports.study.pareto_front import plot_score_vs_latency, sort_trials_by_latency
from hrnet_ray.reports.study.per_keypoint import select_comparable_trials, select_sort_setting
from hrnet_ray.reports.study.significance import BestTrialSignificance, compare_best_trials
from hrnet_ray.reports.study.study_page import render_page
from hrnet_ray.reports.study.trial_results import (
    LR_SETTING,
    SIGMA_SETTING,
    StudyResults,
    format_value,
    is_numeric_setting,
    load_study,
)

REPORT_FILENAME = "report.html"


def write_study_report(folder: Path, *, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write the files above and return the page's path.

    The command that trains the best trial again leaves out what is at its `defaults`.

    Raises:
        DataError: there is no trials.csv, or no trial in it has a score.
        OSError: the folder cannot be written to.
    """
    study = load_study(folder)
    plots = write_plots(study, folder / "plots")
    name = f"{study.name}-best"
    command = format_shell_command(
        build_train_argv(study.best_trial.settings, name=name, defaults=defaults)
    )
    html = render_page(
        study, _try_compare_best_trials(study), plots, command, _find_best_trial_crops(study)
    )
    path = folder / REPORT_FILENAME
    path.write_text(html, encoding="utf-8")
    return path


def write_plots(study: StudyResults, plots_dir: Path) -> dict[str, Path]:
    """Draw what can be drawn of the study; what would be empty is left out.

    Of an earlier time, no picture stays.
    """
    files = {"map": "lr_sigma", "rungs": "rungs", "cost": "cost"}
    files |= {name: name for name in ("parallel", "settings", "keypoints", "speed")}
    paths = {name: plots_dir / f"{file}.png" for name, file in files.items()}
    for path in paths.values():
        path.unlink(missing_ok=True)
    study_curves.plot_learning_curves(paths["rungs"], study)
    study_curves.plot_trial_cost(paths["cost"], study)
    drawn = {"rungs", "cost"}
    if len(study.trials) > 1 and study.searched_settings:
        study_plots.plot_parallel_coordinates(paths["parallel"], study)
        drawn.add("parallel")
    if len(study.scored_trials) > 1 and study.searched_settings:
        study_plots.plot_score_by_setting(paths["settings"], study)
        drawn.add("settings")
        if across := _select_map_settings(study):
            study_plots.plot_score_map(paths["map"], study, setting_pair=across)
            drawn.add("map")
    if len(sort_trials_by_latency(study)) > 1:
        plot_score_vs_latency(paths["speed"], study)
        drawn.add("speed")
    if len(trials := select_comparable_trials(study)) > 1:
        by, kind = select_sort_setting(study), study.metric.split("_")[0]
        values = {t.name: format_value(t.sampled_params[by]) + "\n" if by else "" for t in trials}
        labels = {name: f"{value}#{name}" for name, value in values.items()}
        study_plots.plot_keypoint_heatmap(
            paths["keypoints"], trials, labels=labels, metric_name=kind
        )
        drawn.add("keypoints")
    return {name: path for name, path in paths.items() if name in drawn}


def _select_map_settings(study: StudyResults) -> tuple[str, str] | None:
    """Rate and sigma where both were searched, else the first two numbers that were."""
    numbers = [
        name for name in study.searched_settings if is_numeric_setting(study.scored_trials, name)
    ]
    if {LR_SETTING, SIGMA_SETTING} <= set(numbers):
        return LR_SETTING, SIGMA_SETTING
    return (numbers[0], numbers[1]) if len(numbers) > 1 else None


def _try_compare_best_trials(study: StudyResults) -> BestTrialSignificance | str:
    try:
        return compare_best_trials(study)
    except DataError as error:
        return f"{error.what} ({error.where})"
    except (OSError, ValueError) as error:  # a storage that does not answer, a broken shard
        return str(error)


def _find_best_trial_crops(study: StudyResults) -> Path | None:
    best = study.best_trial
    folder = study.study_dir / "trials" / best.name / "plots" / "sample_predictions"
    path = folder / f"epoch_{best.best_epoch:04d}.jpg"
    return path if path.is_file() else None

"""Study report, from the files of the study alone (no MLflow server).

STUDY/report.html            the page, without external resources
STUDY/plots/lr_sigma.png     scores over two settings
STUDY/plots/parallel.png     parallel coordinates: the settings and score of each trial
STUDY/plots/settings.png     score over each setting by itself
STUDY/plots/speed.png        score against latency, if latency was optimized too
STUDY/plots/keypoints.png    keypoint scores of the best trials
STUDY/plots/rungs.png        learning curves, and the epochs of early stopping
STUDY/plots/cost.png         time spent and saved
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hrnet_ray.errors import DataError
from hrnet_ray.reports.study import learning_curves, setting_plots
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
from hrnet_ray.utils.files import write_text_atomically

REPORT_FILENAME = "report.html"


def write_study_report(folder: Path, *, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write the files above and return the path of the page.

    The command that trains the best trial again omits settings at their `defaults`.

    Raises:
        DataError: trials.csv is missing, or no trial has a score.
        OSError: the folder can't be written.
    """
    study = load_study(folder)
    plots = write_plots(study, folder / "plots")
    name = f"{study.name}-best"
    command = format_shell_command(build_train_argv(study.best_trial.settings, name=name, defaults=defaults))
    html = render_page(study, _try_compare_best_trials(study), plots, command, _find_best_trial_crops(study))
    path = folder / REPORT_FILENAME
    write_text_atomically(path, html)
    return path


def write_plots(study: StudyResults, plots_dir: Path) -> dict[str, Path]:
    """Write the plots that have content, delete all earlier ones, and return paths by name."""
    files = {"map": "lr_sigma", "rungs": "rungs", "cost": "cost"}
    files |= {name: name for name in ("parallel", "settings", "keypoints", "speed")}
    paths = {name: plots_dir / f"{file}.png" for name, file in files.items()}
    for path in paths.values():
        path.unlink(missing_ok=True)
    learning_curves.plot_learning_curves(paths["rungs"], study)
    learning_curves.plot_trial_cost(paths["cost"], study)
    written = {"rungs", "cost"}
    if len(study.trials) > 1 and study.searched_settings:
        setting_plots.plot_parallel_coordinates(paths["parallel"], study)
        written.add("parallel")
    if len(study.scored_trials) > 1 and study.searched_settings:
        setting_plots.plot_score_by_setting(paths["settings"], study)
        written.add("settings")
        if setting_pair := _select_map_settings(study):
            setting_plots.plot_score_map(paths["map"], study, setting_pair=setting_pair)
            written.add("map")
    if len(sort_trials_by_latency(study)) > 1:
        plot_score_vs_latency(paths["speed"], study)
        written.add("speed")
    if len(trials := select_comparable_trials(study)) > 1:
        setting, family = select_sort_setting(study), study.metric.split("_")[0]
        labels = {
            t.name: f"{format_value(t.sampled_params[setting])}\n#{t.name}" if setting else f"#{t.name}" for t in trials
        }
        setting_plots.plot_keypoint_heatmap(paths["keypoints"], trials, labels=labels, metric_name=family)
        written.add("keypoints")
    return {name: path for name, path in paths.items() if name in written}


def _select_map_settings(study: StudyResults) -> tuple[str, str] | None:
    """Select learning rate and heatmap sigma if both were searched, else the first two numbers."""
    numbers = [name for name in study.searched_settings if is_numeric_setting(study.scored_trials, name)]
    if {LR_SETTING, SIGMA_SETTING} <= set(numbers):
        return LR_SETTING, SIGMA_SETTING
    return (numbers[0], numbers[1]) if len(numbers) > 1 else None


def _try_compare_best_trials(study: StudyResults) -> BestTrialSignificance | str:
    try:
        return compare_best_trials(study)
    except DataError as error:
        return f"{error.what} ({error.where})"
    except (OSError, ValueError) as error:  # unreachable storage, or a corrupt shard
        return str(error)


def _find_best_trial_crops(study: StudyResults) -> Path | None:
    best = study.best_trial
    folder = study.study_dir / "trials" / best.name / "plots" / "sample_predictions"
    path = folder / f"epoch_{best.best_epoch:04d}.jpg"
    return path if path.is_file() else None

"""A study as one HTML page (templates/study.html)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hrnet_ray.data.images import codec
from hrnet_ray.reports.page_renderer import render_template
from hrnet_ray.reports.study.learning_curves import format_duration, group_trials_by_rung
from hrnet_ray.reports.study.param_importance import compute_param_importances
from hrnet_ray.reports.study.per_keypoint import (
    TIE_TOLERANCE,
    find_best_trial_per_keypoint,
    select_sort_setting,
)
from hrnet_ray.reports.study.setting_plots import format_epochs
from hrnet_ray.reports.study.significance import BestTrialSignificance
from hrnet_ray.reports.study.summary_cards import build_summary_cards, describe_best_trial
from hrnet_ray.reports.study.trial_results import StudyResults, format_value

PLOT_SCALE = 0.8
"""Width of a plot on a screen with enough room, relative to its width in pixels."""


class EmbeddedImage(NamedTuple):
    """An image file, and its width on the page."""

    data: bytes
    width_px: int


def render_page(
    study: StudyResults,
    significance: BestTrialSignificance | str,
    plot_paths: Mapping[str, Path],
    command: str,
    crops_path: Path | None = None,
) -> str:
    """Return the whole page.

    `significance` is a reason where the best trials could not be compared; `plot_paths` are the
    files of `study_report.write_plots` by name; `command` trains the best trial again; `crops_path`
    is an image of its predictions.
    """
    is_compared = isinstance(significance, BestTrialSignificance)
    winners, sort_setting = find_best_trial_per_keypoint(study), select_sort_setting(study)
    return render_template(
        "study.html",
        title=f"{study.name} - study",
        study=study,
        best_trial_sentence=describe_best_trial(study),
        cards=build_summary_cards(study, significance),
        significance=significance if is_compared else None,
        significance_problem="" if is_compared else significance,
        plots={name: _load_image(path, PLOT_SCALE) for name, path in plot_paths.items()},
        importances=compute_param_importances(study),
        winners=winners,
        sort_setting=sort_setting,
        winning_values=[w.trial.sampled_params[sort_setting] for w in winners] if sort_setting else [],
        tie_tolerance=TIE_TOLERANCE,
        rungs=_build_rung_rows(study),
        extra_columns=list(dict.fromkeys(name for t in study.trials for name in t.extra_columns)),
        command=command,
        crops=_load_image(crops_path) if crops_path else None,
        format_value=format_value,
        format_value_range=_format_value_range,
        format_csv_value=_format_csv_value,
        format_epochs=format_epochs,
        format_duration=format_duration,
    )


def _load_image(path: Path, scale: float = 1.0) -> EmbeddedImage:
    return EmbeddedImage(path.read_bytes(), round(codec.read_image(path).shape[1] * scale))


def _build_rung_rows(study: StudyResults) -> list[dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "num_reached": sum(len(trial.epoch_records) >= epoch for trial in study.trials),
            "stopped_trials": stopped,
            "best_score": max(trial.score for trial in stopped),
        }
        for epoch, stopped in group_trials_by_rung(study).items()
    ]


def _format_value_range(values: Sequence[float]) -> str:
    low, high = format_value(min(values)), format_value(max(values))
    return low if low == high else f"{low} to {high}"


def _format_csv_value(text: str) -> str:
    """Shorten a cell of trials.csv that is a number."""
    try:
        return format_value(float(text))
    except ValueError:
        return text

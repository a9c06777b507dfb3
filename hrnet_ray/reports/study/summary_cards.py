"""Summary of a study: its best trial, the margin, how significant that is, and the cost."""

import math
from dataclasses import dataclass
from statistics import median

from hrnet_ray.reports.study.learning_curves import format_duration
from hrnet_ray.reports.study.setting_plots import format_epochs
from hrnet_ray.reports.study.significance import BestTrialSignificance
from hrnet_ray.reports.study.trial_results import (
    StudyResults,
    TrialOutcome,
    TrialResult,
    format_value,
)


@dataclass(frozen=True)
class SummaryCard:
    """A box at the top of the study page."""

    title: str
    headline: str
    lines: list[str]


def describe_best_trial(study: StudyResults) -> str:
    """Name the best trial and its settings in one or two sentences."""
    best, settings = study.best_trial, ", ".join(_list_settings(study, study.best_trial))
    num_tied = sum(trial.score == best.score for trial in study.trials)
    if num_tied > 1:
        return (
            f"No single best trial: {num_tied:,} of {len(study.trials):,} reached the same "
            f"{study.metric} {best.score:.4f}. The first of them, #{best.name}, has {settings}."
        )
    return f"Trial #{best.name} is the best, with {settings}: {study.metric} {best.score:.4f}."


def build_summary_cards(study: StudyResults, significance: BestTrialSignificance | str) -> list[SummaryCard]:
    """Four cards: the best trial, its margin, the outcomes, the cost."""
    return [
        _build_best_card(study, significance),
        _build_margin_card(study, significance),
        _build_outcome_card(study),
        _build_cost_card(study),
    ]


def _list_settings(study: StudyResults, trial: TrialResult) -> list[str]:
    return [f"{name} {format_value(trial.sampled_params.get(name, ''))}" for name in study.searched_settings]


def _build_best_card(study: StudyResults, significance: BestTrialSignificance | str) -> SummaryCard:
    best, lines = study.best_trial, _list_settings(study, study.best_trial)
    if best.best_epoch > 0:
        lines.append(f"epoch {best.best_epoch:,} of {best.planned_epochs:,}")
    if isinstance(significance, BestTrialSignificance):
        interval = significance.interval
        lines.append(f"95 % interval {interval.low:.3f} to {interval.high:.3f}")
    return SummaryCard(f"Best: trial #{best.name}", f"{study.metric} {best.score:.4f}", lines)


def _build_margin_card(study: StudyResults, significance: BestTrialSignificance | str) -> SummaryCard:
    if len(study.scored_trials) < 2:
        return SummaryCard("Margin", "none", ["no other trial has a score"])
    best, second = study.scored_trials[:2]
    lines = [f"second: #{second.name} with {second.score:.4f}", _format_margin_over_median(study)]
    if isinstance(significance, str):
        lines.append("significance unknown, see below")
    elif tied := significance.indistinguishable_trials:
        names = ", ".join(f"#{trial.name}" for trial in tied)
        lines.append(f"not significantly different on these images: {names}")
    else:
        lines.append("significant on these images: the 95 % interval of the difference excludes 0")
    return SummaryCard("Margin over the second", f"{best.score - second.score:+.4f}", lines)


def _format_margin_over_median(study: StudyResults) -> str:
    """Format the margin, also at equal epochs: early stopping lowers the median."""
    text = f"over the median trial: {study.best_trial.score - study.median_score:+.4f}"
    at_common_epochs = study.best_trial.get_best_score_within(study.common_epochs) - median(
        trial.get_best_score_within(study.common_epochs) for trial in study.scored_trials
    )
    if not study.select_by_outcome(TrialOutcome.STOPPED) or not math.isfinite(at_common_epochs):
        return text
    epochs = format_epochs(study.common_epochs)
    return f"{text}, and {at_common_epochs:+.4f} after {epochs}, which all trials completed"


def _build_outcome_card(study: StudyResults) -> SummaryCard:
    counts = {outcome: len(study.select_by_outcome(outcome)) for outcome in TrialOutcome}
    lines = [f"{count:,} {outcome}" for outcome, count in counts.items() if count]
    return SummaryCard("Trials", f"{len(study.trials):,}", lines)


def _build_cost_card(study: StudyResults) -> SummaryCard:
    run, planned = study.epochs_run, study.epochs_planned
    saved = sum(
        trial.planned_epochs - len(trial.epoch_records) for trial in study.select_by_outcome(TrialOutcome.STOPPED)
    )
    spent_s = sum(trial.duration_s for trial in study.trials)
    lines = [
        f"{100 * run / max(1, planned):.0f} % of the {planned:,} epochs without early stopping",
        f"{format_duration(spent_s)} of training in {format_duration(study.wall_s)}",
    ]
    if saved:
        saved_s = sum(trial.time_saved_s for trial in study.trials)
        lines.append(f"early stopping saved {format_epochs(saved)}, about {format_duration(saved_s)}")
    return SummaryCard("Cost", format_epochs(run), lines)

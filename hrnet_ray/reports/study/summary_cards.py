"""The answer at a glance: which setting won, by how much, how sure that is, what it cost."""

import math
from statistics import median

from hrnet_ray.reports.study.learning_curves import format_duration
from hrnet_ray.reports.study.setting_plots import format_epochs
from hrnet_ray.reports.study.significance import BestTrialSignificance
from hrnet_ray.reports.study.trial_results import StudyResults, TrialOutcome, format_value
from hrnet_ray.visualization.html import HtmlMarkup, render_element


def describe_best_trial(study: StudyResults) -> str:
    """The study in one sentence."""
    best = study.best_trial
    settings = ", ".join(
        f"{name} {format_value(best.sampled_params.get(name, ''))}"
        for name in study.searched_settings
    )
    alike = sum(trial.score == best.score for trial in study.trials) - 1
    if alike:
        return (
            f"No trial won: {alike + 1:,} of {len(study.trials):,} came to the same {study.metric} "
            f"{best.score:.4f}. The first of them, #{best.name}, had {settings}."
        )
    return f"Trial #{best.name} won with {settings}: {study.metric} {best.score:.4f}."


def render_summary_cards(
    study: StudyResults, significance: BestTrialSignificance | str
) -> HtmlMarkup:
    """Four cards: the best, its lead, the trials, the cost."""
    filled = (
        _render_best_card(study, significance),
        _render_lead_card(study, significance),
        _render_outcome_card(study),
        _render_cost_card(study),
    )
    return render_element("div", *filled, class_="cards sums four")


def _render_card(title: str, headline: str, lines: list[str]) -> HtmlMarkup:
    return render_element(
        "div",
        render_element("div", title, class_="name"),
        render_element("div", headline, class_="sum"),
        render_element("ul", *(render_element("li", line) for line in lines)),
        class_="card",
    )


def _render_best_card(study: StudyResults, significance: BestTrialSignificance | str) -> HtmlMarkup:
    best = study.best_trial
    lines = [
        f"{name} {format_value(best.sampled_params.get(name, ''))}"
        for name in study.searched_settings
    ]
    if best.best_epoch >= 0:
        lines.append(f"after epoch {best.best_epoch + 1:,} of {best.planned_epochs:,}")
    if isinstance(significance, BestTrialSignificance):
        lines.append(
            f"95 % interval {significance.interval.low:.3f} to {significance.interval.high:.3f}"
        )
    return _render_card(f"Best: trial #{best.name}", f"{study.metric} {best.score:.4f}", lines)


def _render_lead_card(study: StudyResults, significance: BestTrialSignificance | str) -> HtmlMarkup:
    if len(study.scored_trials) < 2:
        return _render_card("Lead", "none to tell", ["no other trial has a score"])
    best, second = study.scored_trials[:2]
    lines = [f"the second is #{second.name} with {second.score:.4f}"]
    lines.append(_format_lead_over_median(study))
    if isinstance(significance, str):
        lines.append("how sure that is cannot be told, see below")
    elif as_good := significance.indistinguishable_trials:
        names = ", ".join(f"#{trial.name}" for trial in as_good)
        lines.append(f"cannot be told from it on these pictures: {names}")
    else:
        lines.append("clear on these pictures, by the 95 % interval of the difference")
    return _render_card("Lead over the second", f"{best.score - second.score:+.4f}", lines)


def _format_lead_over_median(study: StudyResults) -> str:
    """Trials that were stopped early make the median low, so what all had counts as well."""
    said = f"over the median trial: {study.best_trial.score - study.median_score:+.4f}"
    alike = study.best_trial.get_best_score_within(study.common_epochs) - median(
        t.get_best_score_within(study.common_epochs) for t in study.scored_trials
    )
    if not study.select_by_outcome(TrialOutcome.STOPPED) or not math.isfinite(alike):
        return said
    return (
        f"{said}, and {alike:+.4f} after {format_epochs(study.common_epochs)}, where all were alike"
    )


def _render_outcome_card(study: StudyResults) -> HtmlMarkup:
    counts = {ending: len(study.select_by_outcome(ending)) for ending in TrialOutcome}
    count = len(study.trials)
    lines = [f"{number:,} {ending}" for ending, number in counts.items() if number]
    return _render_card("Trials", f"{count:,}", lines)


def _render_cost_card(study: StudyResults) -> HtmlMarkup:
    run, planned = study.epochs_run, study.epochs_planned
    spared = sum(
        t.planned_epochs - len(t.epoch_records)
        for t in study.select_by_outcome(TrialOutcome.STOPPED)
    )
    spent = sum(trial.duration_s for trial in study.trials)
    lines = [f"{100 * run / max(1, planned):.0f} % of the {planned:,} of all trials at full length"]
    lines.append(f"{format_duration(spent)} of training, within {format_duration(study.wall_s)}")
    if spared:
        saved = sum(trial.time_saved_s for trial in study.trials)
        lines.append(
            f"stopping early spared {format_epochs(spared)}, about {format_duration(saved)}"
        )
    return _render_card("Cost", format_epochs(run), lines)

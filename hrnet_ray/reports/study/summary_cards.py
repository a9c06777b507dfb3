"""The answer at a glance: which setting won, by how much, how sure that is, what it cost."""

import math
from statistics import median

from hrnet_ray.reports.study.learning_curves import duration
from hrnet_ray.reports.study.setting_plots import said_epochs
from hrnet_ray.reports.study.significance import Certainty
from hrnet_ray.reports.study.trial_results import Ending, Trials, as_text
from hrnet_ray.visualization.html import Html, tag


def verdict(study: Trials) -> str:
    """The study in one sentence."""
    best = study.best
    settings = ", ".join(f"{name} {as_text(best.drawn.get(name, ''))}" for name in study.searched)
    alike = sum(trial.score == best.score for trial in study.all) - 1
    if alike:
        return (
            f"No trial won: {alike + 1:,} of {len(study.all):,} came to the same {study.metric} "
            f"{best.score:.4f}. The first of them, #{best.name}, had {settings}."
        )
    return f"Trial #{best.name} won with {settings}: {study.metric} {best.score:.4f}."


def cards(study: Trials, sure: Certainty | str) -> Html:
    """Four cards: the best, its lead, the trials, the cost."""
    filled = (_best(study, sure), _lead(study, sure), _ends(study), _cost(study))
    return tag("div", *filled, class_="cards sums four")


def _card(name: str, said: str, lines: list[str]) -> Html:
    return tag(
        "div",
        tag("div", name, class_="name"),
        tag("div", said, class_="sum"),
        tag("ul", *(tag("li", line) for line in lines)),
        class_="card",
    )


def _best(study: Trials, sure: Certainty | str) -> Html:
    best = study.best
    lines = [f"{name} {as_text(best.drawn.get(name, ''))}" for name in study.searched]
    if best.best_epoch >= 0:
        lines.append(f"after epoch {best.best_epoch + 1:,} of {best.planned:,}")
    if isinstance(sure, Certainty):
        lines.append(f"95 % interval {sure.interval.low:.3f} to {sure.interval.high:.3f}")
    return _card(f"Best: trial #{best.name}", f"{study.metric} {best.score:.4f}", lines)


def _lead(study: Trials, sure: Certainty | str) -> Html:
    if len(study.scored) < 2:
        return _card("Lead", "none to tell", ["no other trial has a score"])
    best, second = study.scored[:2]
    lines = [f"the second is #{second.name} with {second.score:.4f}"]
    lines.append(_over_the_median(study))
    if isinstance(sure, str):
        lines.append("how sure that is cannot be told, see below")
    elif as_good := sure.as_good:
        names = ", ".join(f"#{trial.name}" for trial in as_good)
        lines.append(f"cannot be told from it on these pictures: {names}")
    else:
        lines.append("clear on these pictures, by the 95 % interval of the difference")
    return _card("Lead over the second", f"{best.score - second.score:+.4f}", lines)


def _over_the_median(study: Trials) -> str:
    """Trials that were stopped early make the median low, so what all had counts as well."""
    said = f"over the median trial: {study.best.score - study.median:+.4f}"
    alike = study.best.after(study.common) - median(t.after(study.common) for t in study.scored)
    if not study.ended(Ending.STOPPED) or not math.isfinite(alike):
        return said
    return f"{said}, and {alike:+.4f} after {said_epochs(study.common)}, where all were alike"


def _ends(study: Trials) -> Html:
    counts = {ending: len(study.ended(ending)) for ending in Ending}
    count = len(study.all)
    lines = [f"{number:,} {ending}" for ending, number in counts.items() if number]
    return _card("Trials", f"{count:,}", lines)


def _cost(study: Trials) -> Html:
    run, planned = study.epochs_run, study.epochs_planned
    spared = sum(t.planned - len(t.epochs) for t in study.ended(Ending.STOPPED))
    spent = sum(trial.seconds for trial in study.all)
    lines = [f"{100 * run / max(1, planned):.0f} % of the {planned:,} of all trials at full length"]
    lines.append(f"{duration(spent)} of training, within {duration(study.wall_s)}")
    if spared:
        saved = sum(trial.saved_s for trial in study.all)
        lines.append(f"stopping early spared {said_epochs(spared)}, about {duration(saved)}")
    return _card("Cost", said_epochs(run), lines)

"""A study as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrnet_ray.data.images import codec
from hrnet_ray.reports.study.learning_curves import duration, rungs_of
from hrnet_ray.reports.study.param_importance import weights_of
from hrnet_ray.reports.study.per_keypoint import CLOSE, Winner, ordering, winners_of
from hrnet_ray.reports.study.setting_plots import said_epochs
from hrnet_ray.reports.study.significance import Certainty
from hrnet_ray.reports.study.summary_cards import cards, verdict
from hrnet_ray.reports.study.trial_results import Ending, Trial, Trials, as_text
from hrnet_ray.visualization.html import Html, document, dot, figure, joined, table, tag

SHOWN = 0.8  # of a plot's own size, on a screen that has room for it


def page(
    study: Trials,
    sure: Certainty | str,
    plots: Mapping[str, Path],
    command: str,
    crops: Path | None = None,
) -> str:
    """The whole page.

    `sure` is a reason where the best trials could not be compared; `plots` are the files of
    `study_report.draw` by name; `command` trains the best trial again; `crops` are its
    predictions, drawn.
    """
    body = joined(
        tag("h1", study.name),
        tag("p", _about(study), class_="soft"),
        tag("p", verdict(study)),
        cards(study, sure),
        tag("h2", "How sure is that?"),
        *_rivals(study, sure),
        *_space(study, plots),
        *_speed(plots),
        *_matter(study, plots),
        *_keypoints(study, plots),
        tag("h2", "Who was stopped when, and what it took"),
        *_rungs(study, plots),
        tag("h2", "All trials"),
        _trials(study),
        tag("h2", "Train the best one again"),
        *_again(study, command),
        *_crops(study, crops),
    )
    return document(f"{study.name} - study", body)


def _about(study: Trials) -> str:
    count = len(study.all)
    return (
        f"A search over {', '.join(study.searched)}: {count:,} trial{'' if count == 1 else 's'} "
        f"of at most {said_epochs(max(trial.planned for trial in study.all))}, "
        f"judged by {study.metric} on the validation set."
    )


def _soft(text: str) -> Html:
    return tag("p", text, class_="soft")


def _number(text: str) -> Html:
    return tag("td", text, class_="soft")


def _plot(path: Path, caption: str) -> Html:
    width = codec.read(path).shape[1] * SHOWN
    shown = figure(path.read_bytes(), caption, kind="png")
    return tag("div", shown, style=f"max-width: {width:.0f}px; margin-bottom: 14px")


def _settings(study: Trials, trial: Trial) -> list[Html]:
    return [_number(as_text(trial.drawn.get(name, ""))) for name in study.searched]


def _rivals(study: Trials, sure: Certainty | str) -> list[Html]:
    caution = _soft(
        "Intervals tell of the luck of the pictures only: with another seed, a training comes out "
        "a little differently, too. And as the best was chosen on these pictures, its figure "
        "flatters: judge the model once on pictures that no trial has seen."
    )
    if len(study.scored) < 2:
        return [_soft("One trial has a score: there is nothing to compare it with."), caution]
    if isinstance(sure, str):
        return [tag("p", f"Not told: {sure}.", class_="look"), caution]
    how = _soft(
        f"The {sure.pictures:,} validation pictures are drawn again 1,000 times, the same ones for "
        f"each trial; the 95 % intervals say how far the figures move. The best trial's own: "
        f"{sure.interval.low:.4f} to {sure.interval.high:.4f}."
    )
    lines = []
    for rival in sure.rivals:
        far = rival.interval
        said = ("clear", "good") if far.leaves_out_zero else ("may be luck", "look")
        lines.append(
            [
                tag("td", f"#{rival.trial.name}"),
                *_settings(study, rival.trial),
                _number(f"{rival.trial.score:.4f}"),
                _number(f"{rival.behind:.4f}"),
                _number(f"{far.low:+.4f} to {far.high:+.4f}"),
                tag("td", said[0], class_=said[1]),
            ]
        )
    heads = ["trial", *study.searched, study.metric, "behind by", "interval", ""]
    return [how, tag("div", table(heads, lines), class_="card"), caution]


def _space(study: Trials, plots: Mapping[str, Path]) -> list[Html]:
    """Where the good trials are; nothing to see with fewer than two trials."""
    shown = [tag("h2", "Where the good trials are")]
    if "parallel" not in plots:
        return [*shown, _soft("With one trial there is nothing to compare.")]
    if "map" in plots:
        said = (
            "A mark for each trial; the colours between them are drawn through the marks, and end "
            "where the marks end."
        )
        shown.append(_plot(plots["map"], said))
    said = "A line for each trial, through its settings to its score."
    return [*shown, _plot(plots["parallel"], said)]


def _speed(plots: Mapping[str, Path]) -> list[Html]:
    if "speed" not in plots:
        return []
    said = "On the line: no other trial is both better and quicker."
    return [tag("h2", "Score against speed"), _plot(plots["speed"], said)]


def _matter(study: Trials, plots: Mapping[str, Path]) -> list[Html]:
    if "settings" not in plots:
        return []
    said = "Each setting by itself; the star is the trial that came to be the best."
    picture = _plot(plots["settings"], said)
    return [tag("h2", "Which settings matter"), *_weights(study), picture]


def _weights(study: Trials) -> list[Html]:
    weights = weights_of(study)
    if not weights:
        return [_soft("Too few trials differ to say which settings matter.")]
    said = (
        f"How much of the order of the trials after {said_epochs(study.common)}, which all of them "
        "had, each setting explains (numbers cut into thirds), and what shuffled trials would "
        "give. The rank correlation is above 0 where more is better."
    )
    lines = []
    for one in weights:
        verdict = ("matters", "good") if one.beyond_chance else ("no more than chance", "soft")
        correlation = f"{one.correlation:+.2f}" if one.correlation == one.correlation else "-"
        bar = tag("div", class_="bar train", style=f"width: {one.explained:.1%}")
        lines.append(
            [
                tag("td", one.name, class_="what"),
                tag("td", bar, class_="wide"),
                _number(f"{100 * one.explained:.0f} %"),
                _number(f"{100 * one.by_chance:.0f} %"),
                _number(correlation),
                tag("td", verdict[0], class_=verdict[1]),
            ]
        )
    heads = ["setting", "", "explains", "by chance", "rank correlation", ""]
    return [_soft(said), tag("div", table(heads, lines), class_="card gap")]


def _keypoints(study: Trials, plots: Mapping[str, Path]) -> list[Html]:
    winners = winners_of(study)
    head = tag("h2", "Which trial for which keypoint")
    if not winners:
        return [head, _soft("Fewer than two trials have scores for their keypoints.")]
    by = ordering(study)
    said = f"Columns from small to large {by}. " if by else "Columns with the best trial first. "
    shown = _plot(plots["keypoints"], said + "A star: no trial finds this keypoint better.")
    heads = ["keypoint", "won by", *([by] if by else []), "score", "lead"]
    heads += ["as good"] if by else []
    lines = [_winner(winner, by) for winner in winners]
    note = f"{_tally(winners, study, by)} Lead: over the best trial. "
    note += f"As good: the {by} of all within {CLOSE:g} of the winner." if by else ""
    card = tag("div", table(heads, lines), class_="card")
    return [head, _soft(note), tag("div", shown, card, class_="cards pair")]


def _winner(winner: Winner, by: str | None) -> list[Html]:
    line = [
        tag("td", dot(winner.keypoint), winner.keypoint, class_="what"),
        tag("td", f"#{winner.trial.name}"),
        *([_number(as_text(winner.trial.drawn[by]))] if by else []),
        _number(f"{winner.score:.3f}"),
        _number(f"{winner.lost:.3f}" if winner.lost else "-"),
    ]
    if by:
        values = [trial.drawn[by] for trial in winner.close]
        low, high = as_text(min(values)), as_text(max(values))
        line.append(_number(low if low == high else f"{low} to {high}"))
    return line


def _tally(winners: Sequence[Winner], study: Trials, by: str | None) -> str:
    own = sum(winner.trial is study.best for winner in winners)
    said = f"The best trial wins {own} of {len(winners)} keypoints"
    if not by:
        return said + "."
    values = sorted(winner.trial.drawn[by] for winner in winners)
    low, high = as_text(values[0]), as_text(values[-1])
    return f"{said}; the winners' {by} is {low if low == high else f'between {low} and {high}'}."


def _rungs(study: Trials, plots: Mapping[str, Path]) -> list[Html]:
    shown = _plot(
        plots["rungs"],
        "Above, each trial's score over its epochs; below, how many were still training: the "
        "filled part was trained, the pale part was not.",
    )
    took = _plot(plots["cost"], "How long each trial took, and would have taken on.")
    both = tag("div", shown, took, class_="cards pair")
    rungs = rungs_of(study)
    if not rungs:
        return [_soft("No trial was stopped early."), both]
    lines = []
    for epoch, stopped in rungs.items():
        reached = sum(len(trial.epochs) >= epoch for trial in study.all)
        scores = sorted(trial.score for trial in stopped)
        names = ", ".join(f"#{trial.name}" for trial in stopped)
        lines.append(
            [
                _number(f"{epoch:,}"),
                _number(f"{reached:,}"),
                _number(f"{len(stopped):,}"),
                _number(f"{scores[-1]:.4f}"),
                tag("td", names, class_="what"),
            ]
        )
    heads = ["after epoch", "reached it", "stopped", "best of these", "trials"]
    return [both, tag("div", table(heads, lines), class_="card")]


def _trials(study: Trials) -> Html:
    """Best first; the failed ones last, with their reasons."""
    more = list(dict.fromkeys(name for trial in study.all for name in trial.more))
    heads = ["", "trial", *study.searched, study.metric, "", "best after", "epochs", "time", *more]
    lines = [_trial(study, place, trial, more) for place, trial in enumerate(study.all, 1)]
    return tag("div", table([*heads, "end"], lines), class_="card")


def _trial(study: Trials, place: int, trial: Trial, more: Sequence[str]) -> list[Html]:
    best = trial.best_epoch + 1
    share = max(0.0, trial.score) if trial.scored else 0.0
    bar = tag("div", class_="bar train", style=f"width: {min(share, 1):.1%}")
    end = str(trial.ending) + (f": {trial.error}" if trial.error else "")
    if trial.stopped_by and trial.ending is Ending.STOPPED:
        end += f" ({trial.stopped_by.replace('_', ' ')})"
    failed = trial.ending is Ending.FAILED
    return [
        _number(f"{place}" if trial.scored else ""),
        tag("td", f"#{trial.name}"),
        *_settings(study, trial),
        tag("td", f"{trial.score:.4f}" if trial.scored else "-"),
        tag("td", bar, class_="score") if share else tag("td"),
        _number(f"{best:,}" if trial.scored else ""),
        _number(f"{len(trial.epochs):,} of {trial.planned:,}"),
        _number(duration(trial.seconds)),
        *(_number(_figure(trial.more.get(name, ""))) for name in more),
        tag("td", end, class_="what look" if failed else "what soft"),
    ]


def _figure(said: str) -> str:
    """A cell of trials.csv; numbers are cut short."""
    try:
        return as_text(float(said))
    except ValueError:
        return said


def _again(study: Trials, command: str) -> list[Html]:
    lines = [part for line in command.splitlines() for part in (line, Html("\n"))]
    said = (
        f"The settings of trial #{study.best.name}; where it ran (--cluster...) is up to you. Its "
        "model is in model/ beside this page already."
    )
    return [_soft(said), tag("div", tag("pre", *lines), class_="card")]


def _crops(study: Trials, crops: Path | None) -> list[Html]:
    if crops is None:
        return []
    said = "The same validation crops as in every trial: truth thin and white, prediction thick."
    head = tag("h2", f"What trial #{study.best.name} finds")
    width = codec.read(crops).shape[1]
    shown = figure(crops.read_bytes(), said)
    return [head, tag("div", shown, style=f"max-width: {width}px")]

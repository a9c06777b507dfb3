"""A study as one HTML page: no script, nothing from elsewhere, every text escaped."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from hrnet_ray.data.images import codec
from hrnet_ray.reports.study.learning_curves import format_duration, group_trials_by_rung
from hrnet_ray.reports.study.param_importance import compute_param_importances
from hrnet_ray.reports.study.per_keypoint import (
    TIE_TOLERANCE,
    BestTrialForKeypoint,
    find_best_trial_per_keypoint,
    select_sort_setting,
)
from hrnet_ray.reports.study.setting_plots import format_epochs
from hrnet_ray.reports.study.significance import BestTrialSignificance
from hrnet_ray.reports.study.summary_cards import describe_best_trial, render_summary_cards
from hrnet_ray.reports.study.trial_results import (
    StudyResults,
    TrialOutcome,
    TrialResult,
    format_value,
)
from hrnet_ray.visualization.html import (
    HtmlMarkup,
    concat_markup,
    render_color_dot,
    render_element,
    render_figure_element,
    render_html_document,
    render_html_table,
)

PLOT_SCALE = 0.8  # of a plot's own size, on a screen that has room for it


def render_page(
    study: StudyResults,
    significance: BestTrialSignificance | str,
    plot_paths: Mapping[str, Path],
    command: str,
    crops_path: Path | None = None,
) -> str:
    """The whole page.

    `sure` is a reason where the best trials could not be compared; `plots` are the files of
    `study_report.draw` by name; `command` trains the best trial again; `crops` are its
    predictions, drawn.
    """
    body = concat_markup(
        render_element("h1", study.name),
        render_element("p", _describe_study(study), class_="soft"),
        render_element("p", describe_best_trial(study)),
        render_summary_cards(study, significance),
        render_element("h2", "How sure is that?"),
        *_render_significance_section(study, significance),
        *_render_search_space_section(study, plot_paths),
        *_render_latency_section(plot_paths),
        *_render_importance_section(study, plot_paths),
        *_render_keypoint_section(study, plot_paths),
        render_element("h2", "Who was stopped when, and what it took"),
        *_render_rung_section(study, plot_paths),
        render_element("h2", "All trials"),
        _render_trial_table(study),
        render_element("h2", "Train the best one again"),
        *_render_retrain_section(study, command),
        *_render_crop_section(study, crops_path),
    )
    return render_html_document(f"{study.name} - study", body)


def _describe_study(study: StudyResults) -> str:
    count = len(study.trials)
    return (
        f"A search over {', '.join(study.searched_settings)}: {count:,} trial{'' if count == 1 else 's'} "
        f"of at most {format_epochs(max(trial.planned_epochs for trial in study.trials))}, "
        f"judged by {study.metric} on the validation set."
    )


def _render_muted_text(text: str) -> HtmlMarkup:
    return render_element("p", text, class_="soft")


def _render_value_cell(text: str) -> HtmlMarkup:
    return render_element("td", text, class_="soft")


def _render_plot_image(path: Path, caption: str) -> HtmlMarkup:
    width = codec.read_image(path).shape[1] * PLOT_SCALE
    shown = render_figure_element(path.read_bytes(), caption, image_format="png")
    return render_element("div", shown, style=f"max-width: {width:.0f}px; margin-bottom: 14px")


def _render_setting_cells(study: StudyResults, trial: TrialResult) -> list[HtmlMarkup]:
    return [
        _render_value_cell(format_value(trial.sampled_params.get(name, "")))
        for name in study.searched_settings
    ]


def _render_significance_section(
    study: StudyResults, significance: BestTrialSignificance | str
) -> list[HtmlMarkup]:
    caution = _render_muted_text(
        "Intervals tell of the luck of the pictures only: with another seed, a training comes out "
        "a little differently, too. And as the best was chosen on these pictures, its figure "
        "flatters: judge the model once on pictures that no trial has seen."
    )
    if len(study.scored_trials) < 2:
        return [
            _render_muted_text("One trial has a score: there is nothing to compare it with."),
            caution,
        ]
    if isinstance(significance, str):
        return [render_element("p", f"Not told: {significance}.", class_="look"), caution]
    how = _render_muted_text(
        f"The {significance.num_images:,} validation pictures are drawn again 1,000 times, the same ones for "
        f"each trial; the 95 % intervals say how far the figures move. The best trial's own: "
        f"{significance.interval.low:.4f} to {significance.interval.high:.4f}."
    )
    lines = []
    for rival in significance.runners_up:
        far = rival.interval
        said = ("clear", "good") if far.excludes_zero else ("may be luck", "look")
        lines.append(
            [
                render_element("td", f"#{rival.trial.name}"),
                *_render_setting_cells(study, rival.trial),
                _render_value_cell(f"{rival.trial.score:.4f}"),
                _render_value_cell(f"{rival.score_gap:.4f}"),
                _render_value_cell(f"{far.low:+.4f} to {far.high:+.4f}"),
                render_element("td", said[0], class_=said[1]),
            ]
        )
    heads = ["trial", *study.searched_settings, study.metric, "behind by", "interval", ""]
    return [how, render_element("div", render_html_table(heads, lines), class_="card"), caution]


def _render_search_space_section(
    study: StudyResults, plot_paths: Mapping[str, Path]
) -> list[HtmlMarkup]:
    """Where the good trials are; nothing to see with fewer than two trials."""
    shown = [render_element("h2", "Where the good trials are")]
    if "parallel" not in plot_paths:
        return [*shown, _render_muted_text("With one trial there is nothing to compare.")]
    if "map" in plot_paths:
        said = (
            "A mark for each trial; the colours between them are drawn through the marks, and end "
            "where the marks end."
        )
        shown.append(_render_plot_image(plot_paths["map"], said))
    said = "A line for each trial, through its settings to its score."
    return [*shown, _render_plot_image(plot_paths["parallel"], said)]


def _render_latency_section(plot_paths: Mapping[str, Path]) -> list[HtmlMarkup]:
    if "speed" not in plot_paths:
        return []
    said = "On the line: no other trial is both better and quicker."
    return [
        render_element("h2", "Score against speed"),
        _render_plot_image(plot_paths["speed"], said),
    ]


def _render_importance_section(
    study: StudyResults, plot_paths: Mapping[str, Path]
) -> list[HtmlMarkup]:
    if "settings" not in plot_paths:
        return []
    said = "Each setting by itself; the star is the trial that came to be the best."
    picture = _render_plot_image(plot_paths["settings"], said)
    return [
        render_element("h2", "Which settings matter"),
        *_render_importance_table(study),
        picture,
    ]


def _render_importance_table(study: StudyResults) -> list[HtmlMarkup]:
    weights = compute_param_importances(study)
    if not weights:
        return [_render_muted_text("Too few trials differ to say which settings matter.")]
    said = (
        f"How much of the order of the trials after {format_epochs(study.common_epochs)}, which all of them "
        "had, each setting explains (numbers cut into thirds), and what shuffled trials would "
        "give. The rank correlation is above 0 where more is better."
    )
    lines = []
    for one in weights:
        verdict = ("matters", "good") if one.is_significant else ("no more than chance", "soft")
        correlation = (
            f"{one.rank_correlation:+.2f}" if one.rank_correlation == one.rank_correlation else "-"
        )
        bar = render_element(
            "div", class_="bar train", style=f"width: {one.explained_fraction:.1%}"
        )
        lines.append(
            [
                render_element("td", one.setting, class_="what"),
                render_element("td", bar, class_="wide"),
                _render_value_cell(f"{100 * one.explained_fraction:.0f} %"),
                _render_value_cell(f"{100 * one.chance_fraction:.0f} %"),
                _render_value_cell(correlation),
                render_element("td", verdict[0], class_=verdict[1]),
            ]
        )
    heads = ["setting", "", "explains", "by chance", "rank correlation", ""]
    return [
        _render_muted_text(said),
        render_element("div", render_html_table(heads, lines), class_="card gap"),
    ]


def _render_keypoint_section(
    study: StudyResults, plot_paths: Mapping[str, Path]
) -> list[HtmlMarkup]:
    winners = find_best_trial_per_keypoint(study)
    head = render_element("h2", "Which trial for which keypoint")
    if not winners:
        return [head, _render_muted_text("Fewer than two trials have scores for their keypoints.")]
    by = select_sort_setting(study)
    said = f"Columns from small to large {by}. " if by else "Columns with the best trial first. "
    shown = _render_plot_image(
        plot_paths["keypoints"], said + "A star: no trial finds this keypoint better."
    )
    heads = ["keypoint", "won by", *([by] if by else []), "score", "lead"]
    heads += ["as good"] if by else []
    lines = [_render_winner_row(winner, by) for winner in winners]
    note = f"{_describe_keypoint_wins(winners, study, by)} Lead: over the best trial. "
    note += f"As good: the {by} of all within {TIE_TOLERANCE:g} of the winner." if by else ""
    card = render_element("div", render_html_table(heads, lines), class_="card")
    return [head, _render_muted_text(note), render_element("div", shown, card, class_="cards pair")]


def _render_winner_row(winner: BestTrialForKeypoint, sort_setting: str | None) -> list[HtmlMarkup]:
    line = [
        render_element("td", render_color_dot(winner.keypoint), winner.keypoint, class_="what"),
        render_element("td", f"#{winner.trial.name}"),
        *(
            [_render_value_cell(format_value(winner.trial.sampled_params[sort_setting]))]
            if sort_setting
            else []
        ),
        _render_value_cell(f"{winner.score:.3f}"),
        _render_value_cell(f"{winner.best_trial_gap:.3f}" if winner.best_trial_gap else "-"),
    ]
    if sort_setting:
        values = [trial.sampled_params[sort_setting] for trial in winner.tied_trials]
        low, high = format_value(min(values)), format_value(max(values))
        line.append(_render_value_cell(low if low == high else f"{low} to {high}"))
    return line


def _describe_keypoint_wins(
    winners: Sequence[BestTrialForKeypoint], study: StudyResults, sort_setting: str | None
) -> str:
    own = sum(winner.trial is study.best_trial for winner in winners)
    said = f"The best trial wins {own} of {len(winners)} keypoints"
    if not sort_setting:
        return said + "."
    values = sorted(winner.trial.sampled_params[sort_setting] for winner in winners)
    low, high = format_value(values[0]), format_value(values[-1])
    return f"{said}; the winners' {sort_setting} is {low if low == high else f'between {low} and {high}'}."


def _render_rung_section(study: StudyResults, plot_paths: Mapping[str, Path]) -> list[HtmlMarkup]:
    shown = _render_plot_image(
        plot_paths["rungs"],
        "Above, each trial's score over its epochs; below, how many were still training: the "
        "filled part was trained, the pale part was not.",
    )
    took = _render_plot_image(
        plot_paths["cost"], "How long each trial took, and would have taken on."
    )
    both = render_element("div", shown, took, class_="cards pair")
    rungs = group_trials_by_rung(study)
    if not rungs:
        return [_render_muted_text("No trial was stopped early."), both]
    lines = []
    for epoch, stopped in rungs.items():
        reached = sum(len(trial.epoch_records) >= epoch for trial in study.trials)
        scores = sorted(trial.score for trial in stopped)
        names = ", ".join(f"#{trial.name}" for trial in stopped)
        lines.append(
            [
                _render_value_cell(f"{epoch:,}"),
                _render_value_cell(f"{reached:,}"),
                _render_value_cell(f"{len(stopped):,}"),
                _render_value_cell(f"{scores[-1]:.4f}"),
                render_element("td", names, class_="what"),
            ]
        )
    heads = ["after epoch", "reached it", "stopped", "best of these", "trials"]
    return [both, render_element("div", render_html_table(heads, lines), class_="card")]


def _render_trial_table(study: StudyResults) -> HtmlMarkup:
    """Best first; the failed ones last, with their reasons."""
    more = list(dict.fromkeys(name for trial in study.trials for name in trial.extra_columns))
    heads = [
        "",
        "trial",
        *study.searched_settings,
        study.metric,
        "",
        "best after",
        "epochs",
        "time",
        *more,
    ]
    lines = [
        _render_trial_row(study, place, trial, more) for place, trial in enumerate(study.trials, 1)
    ]
    return render_element("div", render_html_table([*heads, "end"], lines), class_="card")


def _render_trial_row(
    study: StudyResults, position: int, trial: TrialResult, extra_columns: Sequence[str]
) -> list[HtmlMarkup]:
    best = trial.best_epoch + 1
    share = max(0.0, trial.score) if trial.has_score else 0.0
    bar = render_element("div", class_="bar train", style=f"width: {min(share, 1):.1%}")
    end = str(trial.outcome) + (f": {trial.error}" if trial.error else "")
    if trial.stopped_by and trial.outcome is TrialOutcome.STOPPED:
        end += f" ({trial.stopped_by.replace('_', ' ')})"
    failed = trial.outcome is TrialOutcome.FAILED
    return [
        _render_value_cell(f"{position}" if trial.has_score else ""),
        render_element("td", f"#{trial.name}"),
        *_render_setting_cells(study, trial),
        render_element("td", f"{trial.score:.4f}" if trial.has_score else "-"),
        render_element("td", bar, class_="score") if share else render_element("td"),
        _render_value_cell(f"{best:,}" if trial.has_score else ""),
        _render_value_cell(f"{len(trial.epoch_records):,} of {trial.planned_epochs:,}"),
        _render_value_cell(format_duration(trial.duration_s)),
        *(
            _render_value_cell(_format_csv_value(trial.extra_columns.get(name, "")))
            for name in extra_columns
        ),
        render_element("td", end, class_="what look" if failed else "what soft"),
    ]


def _format_csv_value(text: str) -> str:
    """A cell of trials.csv; numbers are cut short."""
    try:
        return format_value(float(text))
    except ValueError:
        return text


def _render_retrain_section(study: StudyResults, command: str) -> list[HtmlMarkup]:
    lines = [part for line in command.splitlines() for part in (line, HtmlMarkup("\n"))]
    said = (
        f"The settings of trial #{study.best_trial.name}; where it ran (--cluster...) is up to you. Its "
        "model is in model/ beside this page already."
    )
    return [
        _render_muted_text(said),
        render_element("div", render_element("pre", *lines), class_="card"),
    ]


def _render_crop_section(study: StudyResults, crops_path: Path | None) -> list[HtmlMarkup]:
    if crops_path is None:
        return []
    said = "The same validation crops as in every trial: truth thin and white, prediction thick."
    head = render_element("h2", f"What trial #{study.best_trial.name} finds")
    width = codec.read_image(crops_path).shape[1]
    shown = render_figure_element(crops_path.read_bytes(), said)
    return [head, render_element("div", shown, style=f"max-width: {width}px")]

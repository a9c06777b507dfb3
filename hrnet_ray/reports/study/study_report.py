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
from hrnet_ray.reports.study.cli_command import as_shell, train_command
from hrnet_ray.reports.study.pareto_front import score_against_latency, timed
from hrnet_ray.reports.study.per_keypoint import compared, ordering
from hrnet_ray.reports.study.significance import Certainty, certainty
from hrnet_ray.reports.study.study_page import page
from hrnet_ray.reports.study.trial_results import RATE, SIGMA, Trials, as_text, numeric, read_trials

REPORT = "report.html"


def write(folder: Path, *, defaults: Mapping[str, Any] | None = None) -> Path:
    """Write the files above and return the page's path.

    The command that trains the best trial again leaves out what is at its `defaults`.

    Raises:
        DataError: there is no trials.csv, or no trial in it has a score.
        OSError: the folder cannot be written to.
    """
    study = read_trials(folder)
    plots = draw(study, folder / "plots")
    name = f"{study.name}-best"
    command = as_shell(train_command(study.best.settings, name=name, defaults=defaults))
    html = page(study, _certainty(study), plots, command, _crops(study))
    path = folder / REPORT
    path.write_text(html, encoding="utf-8")
    return path


def draw(study: Trials, out: Path) -> dict[str, Path]:
    """Draw what can be drawn of the study; what would be empty is left out.

    Of an earlier time, no picture stays.
    """
    files = {"map": "lr_sigma", "rungs": "rungs", "cost": "cost"}
    files |= {name: name for name in ("parallel", "settings", "keypoints", "speed")}
    paths = {name: out / f"{file}.png" for name, file in files.items()}
    for path in paths.values():
        path.unlink(missing_ok=True)
    study_curves.learning(paths["rungs"], study)
    study_curves.cost(paths["cost"], study)
    drawn = {"rungs", "cost"}
    if len(study.all) > 1 and study.searched:
        study_plots.parallel(paths["parallel"], study)
        drawn.add("parallel")
    if len(study.scored) > 1 and study.searched:
        study_plots.each_setting(paths["settings"], study)
        drawn.add("settings")
        if across := _across(study):
            study_plots.score_map(paths["map"], study, across=across)
            drawn.add("map")
    if len(timed(study)) > 1:
        score_against_latency(paths["speed"], study)
        drawn.add("speed")
    if len(trials := compared(study)) > 1:
        by, kind = ordering(study), study.metric.split("_")[0]
        values = {t.name: as_text(t.drawn[by]) + "\n" if by else "" for t in trials}
        labels = {name: f"{value}#{name}" for name, value in values.items()}
        study_plots.winners(paths["keypoints"], trials, labels=labels, of=kind)
        drawn.add("keypoints")
    return {name: path for name, path in paths.items() if name in drawn}


def _across(study: Trials) -> tuple[str, str] | None:
    """Rate and sigma where both were searched, else the first two numbers that were."""
    numbers = [name for name in study.searched if numeric(study.scored, name)]
    if {RATE, SIGMA} <= set(numbers):
        return RATE, SIGMA
    return (numbers[0], numbers[1]) if len(numbers) > 1 else None


def _certainty(study: Trials) -> Certainty | str:
    try:
        return certainty(study)
    except DataError as error:
        return f"{error.what} ({error.where})"
    except (OSError, ValueError) as error:  # a storage that does not answer, a broken shard
        return str(error)


def _crops(study: Trials) -> Path | None:
    best = study.best
    folder = study.folder / "trials" / best.name / "plots" / "fixed16"
    path = folder / f"epoch_{best.best_epoch:04d}.jpg"
    return path if path.is_file() else None

"""Which trial, and so which sigma, is best for which keypoint."""

from dataclasses import dataclass

from hrnet_ray.reports.study.trial_results import SIGMA, Ending, Trial, Trials, numeric

MOST, FEWEST = 14, 6
"""So many trials are compared: those that were trained to the end, and a few others if need be."""
CLOSE = 0.01
"""Keypoint scores that differ by less are as good as each other."""


@dataclass(frozen=True)
class Winner:
    """The trial that finds a keypoint best."""

    keypoint: str
    trial: Trial
    score: float
    lost: float
    """What the best trial of the study gives away here, 0 or more."""
    close: list[Trial]
    """All that are as good, the winner among them."""


def compared(study: Trials) -> list[Trial]:
    """The trials whose keypoints are compared, in the order of `ordering`, or best first."""
    known = [trial for trial in study.scored if trial.keypoints]
    whole = [trial for trial in known if trial.ending is Ending.WHOLE][:MOST]
    others = [trial for trial in known if trial not in whole]
    chosen = whole + others[: max(0, FEWEST - len(whole))]
    by = ordering(study)
    return sorted(chosen, key=lambda trial: trial.drawn[by]) if by else chosen


def ordering(study: Trials) -> str | None:
    """Sigma where it was searched, else the first number that was."""
    numbers = [name for name in study.searched if numeric(study.all, name)]
    return SIGMA if SIGMA in numbers else next(iter(numbers), None)


def winners_of(study: Trials) -> list[Winner]:
    """A line for each keypoint; none when there are fewer than two trials to compare."""
    trials = compared(study)
    if len(trials) < 2:
        return []
    names = [name for name in trials[0].keypoints if all(name in t.keypoints for t in trials)]
    return [_winner(name, trials, study.best) for name in names]


def _winner(name: str, trials: list[Trial], best: Trial) -> Winner:
    won = max(trials, key=lambda trial: trial.keypoints[name])
    top = won.keypoints[name]
    close = [trial for trial in trials if trial.keypoints[name] > top - CLOSE]
    return Winner(name, won, top, top - best.keypoints.get(name, top), close)

"""How a study searches: what it draws, and which trials it ends early. Nothing of Ray in it."""

from dataclasses import dataclass
from typing import Literal

from hrnet_ray.distributed.tuning.schedulers import Halving, Median, Rule
from hrnet_ray.errors import UsageError

WITHOUT_MEANING = ("trials", "at_once", "time_budget_s", "challenge")
"""Settings that may differ when a study goes on: they decide how much is done, not what."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a study looks for its best trial."""

    trials: int = 24
    """More of them with the same --name go on with the study. The grid has its own number."""
    at_once: int | None = None
    """Trials that train at the same time; by default as many as do not starve each other."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe` (Optuna's) learns from the trials so far; `grid` takes each combination of choices."""
    startup: int = 8
    """Of `tpe`: trials spread evenly over the space before it learns from them."""
    scheduler: Literal["asha", "median", "none"] = "asha"
    """`asha` stops all but the best at each rung; `median` stops what is below the others' median.
    """
    grace_epochs: int = 10
    """No trial is stopped before this; the first rung."""
    reduction: int = 3
    """Of `asha`: of the trials that reach a rung, one in so many goes on."""
    against_latency: bool = False
    """Search for quick models too: the score against the time of one crop. Nothing is stopped
    early then, because a trial is no longer better or worse than another."""
    warm_start: tuple[str, ...] = ()
    """Folders of earlier studies (`runs/DATA/NAME`) whose best settings are tried first."""
    warm_points: int = 3
    """Of each earlier study, so many."""
    challenge: bool = True
    """Register the best model in MLflow, where it is the challenger until `promote` judges it."""
    seed: int = 0
    time_budget_s: float | None = None
    """Trials that train when it is over stop there; the same command goes on with them."""

    def __post_init__(self) -> None:
        least = {"trials": 1, "startup": 1, "grace_epochs": 1, "reduction": 2, "warm_points": 1}
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                flag = f"--search.{name.replace('_', '-')}"
                raise UsageError(f"{name} cannot be {value}", f"{flag} {value}", f"give {low}, up")
        if self.at_once is not None and self.at_once < 1:
            raise UsageError(
                f"at_once cannot be {self.at_once}",
                f"--search.at-once {self.at_once}",
                "give 1, up",
            )

    def rule(self, epochs: int) -> Rule | None:
        """What decides whether a trial goes on; None when all do."""
        if self.against_latency or self.scheduler == "none":
            return None
        grace = min(self.grace_epochs, epochs)
        if self.scheduler == "median":
            return Median(grace=grace)
        return Halving(grace=grace, reduction=self.reduction, epochs=epochs)

    def sentence(self, epochs: int) -> str:
        """What is drawn and what is stopped, for the line that a study begins with."""
        drawn = {
            "tpe": f"TPE after {self.startup} trials spread evenly",
            "random": "random draws",
            "grid": "each combination",
        }[self.sampler]
        if self.against_latency:
            return f"{drawn}; score against latency, so no trial is stopped early"
        rule = self.rule(epochs)
        return f"{drawn}; {rule or 'no trial is stopped early'}"

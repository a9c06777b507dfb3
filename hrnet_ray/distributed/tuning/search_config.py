"""How a study searches: what it draws, and which trials it ends early. Nothing of Ray in it."""

from dataclasses import dataclass
from typing import Literal

from hrnet_ray.distributed.tuning.schedulers import MedianStopping, StoppingRule, SuccessiveHalving
from hrnet_ray.errors import UsageError

CHANGEABLE_ON_RESUME = ("num_trials", "max_concurrent_trials", "time_budget_s", "register_best")
"""Settings that may differ when a study goes on: they decide how much is done, not what."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How a study looks for its best trial."""

    num_trials: int = 24
    """More of them with the same --name go on with the study. The grid has its own number."""
    max_concurrent_trials: int | None = None
    """Trials that train at the same time; by default as many as do not starve each other."""
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    """`tpe` (Optuna's) learns from the trials so far; `grid` takes each combination of choices."""
    n_startup_trials: int = 8
    """Of `tpe`: trials spread evenly over the space before it learns from them."""
    scheduler: Literal["asha", "median", "none"] = "asha"
    """`asha` stops all but the best at each rung; `median` stops what is below the others' median.
    """
    grace_period: int = 10
    """No trial is stopped before this; the first rung."""
    reduction_factor: int = 3
    """Of `asha`: of the trials that reach a rung, one in so many goes on."""
    optimize_latency: bool = False
    """Search for quick models too: the score against the time of one crop. Nothing is stopped
    early then, because a trial is no longer better or worse than another."""
    warm_start: tuple[str, ...] = ()
    """Folders of earlier studies (`runs/DATA/NAME`) whose best settings are tried first."""
    warm_start_top_k: int = 3
    """Of each earlier study, so many."""
    register_best: bool = True
    """Register the best model in MLflow, where it is the challenger until `promote` judges it."""
    seed: int = 0
    time_budget_s: float | None = None
    """Trials that train when it is over stop there; the same command goes on with them."""

    def __post_init__(self) -> None:
        least = {
            "num_trials": 1,
            "n_startup_trials": 1,
            "grace_period": 1,
            "reduction_factor": 2,
            "warm_start_top_k": 1,
        }
        for name, low in least.items():
            if (value := getattr(self, name)) < low:
                flag = f"--search.{name.replace('_', '-')}"
                raise UsageError(f"{name} cannot be {value}", f"{flag} {value}", f"give {low}, up")
        if self.max_concurrent_trials is not None and self.max_concurrent_trials < 1:
            raise UsageError(
                f"max_concurrent_trials cannot be {self.max_concurrent_trials}",
                f"--search.max-concurrent-trials {self.max_concurrent_trials}",
                "give 1, up",
            )

    def build_stopping_rule(self, epochs: int) -> StoppingRule | None:
        """What decides whether a trial goes on; None when all do."""
        if self.optimize_latency or self.scheduler == "none":
            return None
        grace = min(self.grace_period, epochs)
        if self.scheduler == "median":
            return MedianStopping(grace_period=grace)
        return SuccessiveHalving(grace_period=grace, reduction_factor=self.reduction_factor, epochs=epochs)

    def describe_search(self, epochs: int) -> str:
        """What is drawn and what is stopped, for the line that a study begins with."""
        drawn = {
            "tpe": f"TPE after {self.n_startup_trials} trials spread evenly",
            "random": "random draws",
            "grid": "each combination",
        }[self.sampler]
        if self.optimize_latency:
            return f"{drawn}; score against latency, so no trial is stopped early"
        rule = self.build_stopping_rule(epochs)
        return f"{drawn}; {rule or 'no trial is stopped early'}"

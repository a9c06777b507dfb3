"""One trial of a study, in the process that Tune gives it.

A process that is new has to import this room before it can train, so neither MLflow nor Optuna nor
anything else that only the driver needs is known here.
"""

import json
import os
import threading
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from hrnet_ray.config import Cluster, Experiment, flatten, override
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.distributed.cluster.resources import Share
from hrnet_ray.distributed.data.object_store import LostRows, Stored
from hrnet_ray.distributed.training.backends import TrialHost
from hrnet_ray.distributed.training.train_loop import train_worker
from hrnet_ray.distributed.training.worker_config import Job
from hrnet_ray.distributed.tuning.latency import TimedHost
from hrnet_ray.distributed.tuning.trial_records import NUMBER, amend, failed, trials_folder
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.runs import stop_request
from hrnet_ray.runs.log_capture import keep_story
from hrnet_ray.runs.run_dir import made_with


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every trial is told. Plain values: it travels to other machines."""

    base: Experiment
    cluster: Cluster
    manifest: Manifest
    folder: Path
    share: Share
    started_in: str
    """The driver's folder, where relative paths of settings start."""
    against_latency: bool = False


def run_trial(config: dict[str, Any], *, plan: Plan, data: dict[str, Stored]) -> None:
    """One Tune trial. An error of the user's ends it; anything else, Tune tries once more.

    Raises:
        LostRows: with one worker. Its CPUs are free then, for Ray to make the rows again; a run of
            several workers has read them anew itself.
    """
    # Where one process serves several trials, the next one waits for this one's thread to end.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    folder = trials_folder(plan.folder) / config[NUMBER]
    stop_request.forget(folder)  # an interrupted command left its word there
    try:
        _train_trial(config, plan, data)
    except HrnetRayError as error:
        if isinstance(error, LostRows) and plan.cluster.workers == 1:
            raise
        keep_story(folder)
        amend(plan.folder, config[NUMBER], partial(failed, error=error))
    if stop_request.read(folder) == "saved":
        threading.Event().wait()  # to be ended: one that returns would be a finished trial to Tune


def _train_trial(config: dict[str, Any], plan: Plan, data: dict[str, Stored]) -> None:
    """A Ray Train run of its own, or, with one worker, in this very process."""
    drawn = {name: value for name, value in config.items() if name != NUMBER}
    number = config[NUMBER]
    experiment = override(plan.base, drawn | {"name": f"{plan.base.name}/trials/{number}"})
    folder = trials_folder(plan.folder) / number
    settings = flatten(experiment) | {"drawn": drawn}
    part = folder / "resolved.json.part"  # the driver may be reading the one of an earlier try
    part.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    part.replace(folder / "resolved.json")
    if plan.cluster.workers > 1:
        from hrnet_ray.distributed.training.train import train_once  # knows MLflow

        report = TuneReportCallback()
        train_once(
            experiment,
            plan.cluster,
            plan.share,
            plan.manifest,
            folder,
            data,
            started_in=plan.started_in,
            callbacks=[report],
        )
        return
    about = made_with(experiment, plan.manifest, workers=1)
    gpu = bool(plan.share.gpus)
    if plan.against_latency:
        host = TimedHost(folder, about, gpu=gpu, input_hw=experiment.data.input_hw)
    else:
        host = TrialHost(folder, about, gpu=gpu)
    job = Job(
        experiment=experiment,
        manifest=plan.manifest,
        data=data,
        run_folder=folder,
        threads=plan.share.threads,
        write_order=plan.cluster.write_order,
        host=host,
        started_in=plan.started_in,
    )
    train_worker({"job": job})

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

from hrnet_ray.config import ClusterConfig, ExperimentConfig, flatten_config, with_overrides
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.distributed.cluster.resources import WorkerResources
from hrnet_ray.distributed.data.object_store import CachedSplit, LostBlocksError
from hrnet_ray.distributed.training.backends import TuneTrialBackend
from hrnet_ray.distributed.training.train_loop import train_loop_per_worker
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.distributed.tuning.latency import LatencyMeasuringBackend
from hrnet_ray.distributed.tuning.trial_records import (
    TRIAL_NUMBER_KEY,
    get_trials_dir,
    mark_failed,
    update_trial_record,
)
from hrnet_ray.errors import HrnetRayError
from hrnet_ray.runs import stop_request
from hrnet_ray.runs.log_capture import write_traceback
from hrnet_ray.runs.run_dir import build_checkpoint_provenance
from hrnet_ray.utils.files import write_text_atomically


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """What every trial receives. Plain values, because it is sent to other machines."""

    base_experiment: ExperimentConfig
    cluster: ClusterConfig
    manifest: DatasetManifest
    folder: Path
    worker_resources: WorkerResources
    driver_cwd: str
    """The driver's folder, where relative paths of settings start."""
    optimize_latency: bool = False


def run_trial(config: dict[str, Any], *, plan: StudyPlan, data: dict[str, CachedSplit]) -> None:
    """One Tune trial. An error of the user's ends it; anything else, Tune tries once more.

    Raises:
        LostRows: with one worker. Its CPUs are free then, for Ray to make the rows again; a run of
            several workers has read them anew itself.
    """
    # Where one process serves several trials, the next one waits for this one's thread to end.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    folder = get_trials_dir(plan.folder) / config[TRIAL_NUMBER_KEY]
    stop_request.clear_state(folder)  # an interrupted command left its word there
    try:
        _train_trial(config, plan, data)
    except HrnetRayError as error:
        if isinstance(error, LostBlocksError) and plan.cluster.num_workers == 1:
            raise
        write_traceback(folder)
        update_trial_record(plan.folder, config[TRIAL_NUMBER_KEY], partial(mark_failed, error=error))
    if stop_request.read_state(folder) == "saved":
        threading.Event().wait()  # to be ended: one that returns would be a finished trial to Tune


def _train_trial(config: dict[str, Any], plan: StudyPlan, data: dict[str, CachedSplit]) -> None:
    """A Ray Train run of its own, or, with one worker, in this very process."""
    drawn = {name: value for name, value in config.items() if name != TRIAL_NUMBER_KEY}
    number = config[TRIAL_NUMBER_KEY]
    experiment = with_overrides(plan.base_experiment, drawn | {"name": f"{plan.base_experiment.name}/trials/{number}"})
    folder = get_trials_dir(plan.folder) / number
    settings = flatten_config(experiment) | {"sampled_params": drawn}
    write_text_atomically(folder / "resolved_config.json", json.dumps(settings, indent=2))
    if plan.cluster.num_workers > 1:
        from hrnet_ray.distributed.training.train import run_ray_train  # knows MLflow

        report = TuneReportCallback()
        run_ray_train(
            experiment,
            plan.cluster,
            plan.worker_resources,
            plan.manifest,
            folder,
            data,
            driver_cwd=plan.driver_cwd,
            callbacks=[report],
        )
        return
    about = build_checkpoint_provenance(experiment, plan.manifest, num_workers=1)
    gpu = bool(plan.worker_resources.gpus)
    if plan.optimize_latency:
        host = LatencyMeasuringBackend(folder, about, gpu=gpu, input_hw=experiment.data.input_hw)
    else:
        host = TuneTrialBackend(folder, about, gpu=gpu)
    job = WorkerConfig(
        experiment=experiment,
        manifest=plan.manifest,
        cached_splits=data,
        run_folder=folder,
        threads=plan.worker_resources.threads,
        log_sample_order=plan.cluster.log_sample_order,
        backend=host,
        driver_cwd=plan.driver_cwd,
    )
    train_loop_per_worker({"job": job})

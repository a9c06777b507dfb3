"""The training loop of one worker. Ray Train calls `train_loop_per_worker` once per worker."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from joblib import cpu_count

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.distributed.data.data_loader import WorkerDataLoader
from hrnet_ray.distributed.training.backends import TrainBackend
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.progress import ProgressReporter
from hrnet_ray.runs.stop_request import StopFlag, StopRequested
from hrnet_ray.training.best_model import BestModelWriter
from hrnet_ray.training.checkpoint import TrainState
from hrnet_ray.training.checkpoint_store import FileEntries
from hrnet_ray.training.components import TrainComponents, build_components
from hrnet_ray.training.divergence import handle_divergence
from hrnet_ray.training.epoch_trainer import EpochTrainer
from hrnet_ray.training.fault_injection import FaultInjector
from hrnet_ray.training.nan_guard import DivergenceDetected
from hrnet_ray.training.sample_log import SampleLog
from hrnet_ray.training.validator import Validator
from hrnet_ray.training.worker_validation import WorkerValidation
from hrnet_ray.utils.collectives import gather_objects, get_world_size


def train_loop_per_worker(config: dict[str, WorkerConfig]) -> None:
    """Train one replica to the end, from the newest checkpoint if there is one.

    Raises:
        TrainingDivergedError: the training diverged again after the learning rate was reduced.
        UsageError: a batch is too large for the GPU.
    """
    worker_config = config["job"]
    # The driver counted the threads over all nodes; this one may have fewer cores.
    torch.set_num_threads(min(worker_config.threads, cpu_count()))
    torch.backends.cudnn.benchmark = True  # as published: the shape of crops never changes
    worker_config.backend.require_storage()
    with explain_cuda_oom(worker_config):
        if not run_training(worker_config):
            gc.collect()  # free the diverged model before another is built
            run_training(worker_config, reduce_lr=True)


def run_training(worker_config: WorkerConfig, *, reduce_lr: bool = False) -> bool:
    """Train from the newest checkpoint; False if the training diverged, equal on all ranks.

    `reduce_lr` lowers the learning rate for good; a divergence then raises an error.
    """
    experiment, manifest = worker_config.experiment, worker_config.manifest
    run_folder = worker_config.run_folder
    backend, is_rank0 = worker_config.backend, worker_config.backend.get_rank() == 0
    torch.manual_seed(experiment.seed)

    data_loader = _build_data_loader(worker_config)
    components = build_components(
        experiment,
        manifest,
        device=data_loader.device,
        prepare_model=backend.prepare_model,
        steps_per_epoch=data_loader.count_steps(batch_size=experiment.optim.batch_size),
        driver_cwd=worker_config.driver_cwd,
    )
    progress_reporter = ProgressReporter(run_folder, epochs=experiment.optim.epochs, active=is_rank0)
    fault_injector = FaultInjector(run_folder, rank=backend.get_rank())
    trainer = EpochTrainer(
        components,
        data_loader,
        experiment,
        manifest,
        run_folder,
        num_train_rows=data_loader.train_reader.num_rows,
        rank=backend.get_rank(),
        progress_reporter=progress_reporter,
        fault_injector=fault_injector,
    )
    sample_log = SampleLog(manifest, run_folder, log_sample_order=worker_config.log_sample_order, active=is_rank0)
    validation = _build_validation(
        worker_config, components, data_loader, sample_log=sample_log, fault_injector=fault_injector
    )
    state = components.restore(backend.checkpoint_manager, is_rank0=is_rank0, reduce_lr=reduce_lr)
    stop_flag = StopFlag(run_folder, is_rank0=is_rank0)

    for epoch in range(state.epoch, experiment.optim.epochs):
        try:
            metrics = trainer.train_one_epoch(epoch, stop_flag, partial_epoch=state.partial_epoch)
        except DivergenceDetected as divergence:
            handle_divergence(
                divergence,
                data_loader.seen_ids,
                run_folder,
                lr=experiment.optim.lr,
                lr_factor=components.lr_factor,
                last_good_epoch=state.epoch,
                is_rank0=is_rank0,
            )
            return False
        except StopRequested:
            state = replace(state, partial_epoch=trainer.collect_partial_epoch())
            if is_rank0:
                backend.checkpoint_manager.save_mid_epoch(
                    epoch=state.epoch + 1,
                    save_state=partial(components.save_state, train_state=state),
                )
            stop_flag.mark_saved()
            return True
        sample_log.log_order(gather_objects(data_loader.seen_ids), epoch=epoch + 1)
        if should_validate(experiment, epoch):
            state, val_metrics = validation.run_epoch(epoch, state)
            metrics |= val_metrics
        if validation.validator:
            metrics |= {"objective": validation.validator.last_objective, "epochs_done": epoch + 1}
        metrics["perf/epoch_s"] = progress_reporter.measure_elapsed_s()
        state = replace(state, epoch=epoch + 1, lr_factor=components.lr_factor, partial_epoch=None)
        report_epoch(backend, components, metrics, state, fault_injector=fault_injector)
    stop_flag.clear_flag()
    return True


def should_validate(experiment: ExperimentConfig, epoch: int) -> bool:
    """Whether the epoch with this index (from 0) ends with a validation; the last one does."""
    is_last = epoch == experiment.optim.epochs - 1
    return is_last or (epoch + 1) % experiment.evaluation.val_interval == 0


def report_epoch(
    backend: TrainBackend,
    components: TrainComponents,
    metrics: dict[str, Any],
    train_state: TrainState,
    *,
    fault_injector: FaultInjector,
) -> None:
    """Report the metrics of the finished epoch; rank 0 saves its checkpoint first."""
    epoch_index, is_rank0 = train_state.epoch - 1, backend.get_rank() == 0

    def save_state(folder: Path) -> FileEntries:
        entries = components.save_state(folder, train_state)
        fault_injector.maybe_inject("report", epoch=epoch_index)
        return entries

    if not is_rank0:
        fault_injector.maybe_inject("report", epoch=epoch_index)
    backend.report_epoch(metrics, epoch=train_state.epoch, save_state=save_state if is_rank0 else None)
    fault_injector.maybe_inject("end", epoch=epoch_index)


@contextmanager
def explain_cuda_oom(worker_config: WorkerConfig) -> Iterator[None]:
    """Turn an out-of-memory error into a UsageError with a fix: a restart would not help."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        optim, input_hw = worker_config.experiment.optim, worker_config.experiment.data.input_hw
        crops = -(-optim.batch_size // get_world_size())
        parts = optim.gradient_accumulation_steps
        raise UsageError(
            f"{crops} crops of {input_hw[0]} x {input_hw[1]} do not fit into GPU memory",
            f"--optim.batch-size {optim.batch_size} --optim.gradient-accumulation-steps {parts}, "
            f"{get_world_size()} workers: {str(error).splitlines()[0][:120]}",
            f"use --optim.gradient-accumulation-steps {2 * parts} for the same batch in smaller "
            "parts; `hrnet-ray doctor --test-gpu` shows how many fit",
        ) from error


def _build_data_loader(worker_config: WorkerConfig) -> WorkerDataLoader:
    return WorkerDataLoader(
        worker_config.cached_splits,
        worker_config.experiment.data,
        canvas_px=worker_config.manifest.canvas_px,
        device=worker_config.backend.get_train_device(),
        rank=worker_config.backend.get_rank(),
        num_workers=get_world_size(),
        max_workers=worker_config.max_workers,
        threads=worker_config.threads,
    )


def _build_validation(
    worker_config: WorkerConfig,
    components: TrainComponents,
    data_loader: WorkerDataLoader,
    *,
    sample_log: SampleLog,
    fault_injector: FaultInjector,
) -> WorkerValidation:
    experiment, manifest = worker_config.experiment, worker_config.manifest
    validator = best_model = None
    if worker_config.backend.get_rank() == 0:
        run_folder, load_crops = worker_config.run_folder, data_loader.val_reader.get_rows
        validator = Validator(manifest, run_folder, load_crops=load_crops)
        best_model = BestModelWriter(experiment, manifest, run_folder, ground_truth=validator.ground_truth)
    return WorkerValidation(
        components,
        data_loader,
        experiment,
        manifest,
        sample_log=sample_log,
        validator=validator,
        best_model=best_model,
        fault_injector=fault_injector,
    )

"""What one training worker does, in order. Ray Train calls `train_worker` once per GPU."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from joblib import cpu_count

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.distributed.data.data_loader import WorkerDataLoader
from hrnet_ray.distributed.training.trainer import WorkerTrainer
from hrnet_ray.distributed.training.worker_config import WorkerConfig
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.progress import ProgressReporter
from hrnet_ray.runs.stop_request import StopFlag, StopRequested
from hrnet_ray.training.nan_guard import DivergenceDetected
from hrnet_ray.training.sample_log import SampleLog
from hrnet_ray.training.validator import Validator
from hrnet_ray.utils.collectives import gather_objects, get_world_size


def train_loop_per_worker(config: dict[str, WorkerConfig]) -> None:
    """Train one replica to the end, from the last checkpoint if there is one.

    Raises:
        DivergedError: the loss is no number, at half the rate too.
        UsageError: a batch is too large for the GPU.
    """
    job = config["job"]
    torch.set_num_threads(min(job.threads, cpu_count()))  # they were counted over all nodes
    torch.backends.cudnn.benchmark = True  # as published: crops keep their shape, so a try pays
    job.backend.require_storage()
    with explain_cuda_oom(job):
        if not run_training(job):
            gc.collect()  # the net that diverged, before there is another
            run_training(job, reduce_lr=True)


@contextmanager
def explain_cuda_oom(worker_config: WorkerConfig) -> Iterator[None]:
    """Turn a GPU that is too small for a batch into what to do about it: no restart helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        optim, shape = worker_config.experiment.optim, worker_config.experiment.data.input_hw
        crops = -(-optim.batch_size // get_world_size())
        raise UsageError(
            f"{crops} crops of {shape[0]} x {shape[1]} are too many for a GPU at once",
            f"--optim.batch-size {optim.batch_size} --optim.gradient-accumulation-steps {optim.gradient_accumulation_steps}, "
            f"{get_world_size()} workers: {str(error).splitlines()[0][:120]}",
            f"--optim.gradient-accumulation-steps {2 * optim.gradient_accumulation_steps} learns the same batch in smaller parts; "
            "hrnet-ray doctor --test-gpu tells how many fit",
        ) from error


def run_training(worker_config: WorkerConfig, *, reduce_lr: bool = False) -> bool:
    """Go on from the newest checkpoint; False when it diverged, on every worker alike.

    `slower` goes on at a lower rate than before, for good; then diverging is an error.
    """
    host, epochs = worker_config.backend, worker_config.experiment.optim.epochs
    torch.manual_seed(worker_config.experiment.seed)

    replica = WorkerTrainer(worker_config)
    first = host.get_rank() == 0
    judge = _build_validator(worker_config, replica.data_loader) if first else None
    ledger = SampleLog(
        worker_config.manifest,
        worker_config.run_folder,
        log_sample_order=worker_config.log_sample_order,
        active=first,
    )
    pulse = ProgressReporter(worker_config.run_folder, epochs=epochs, active=first)
    done = replica.restore_checkpoint(reduce_lr=reduce_lr)
    stop = StopFlag(worker_config.run_folder, is_rank0=first)

    for epoch in range(done.epoch + 1, epochs):
        try:
            metrics = replica.train_one_epoch(epoch, pulse, stop, partial_epoch=done.partial_epoch)
        except DivergenceDetected as trouble:
            replica.handle_divergence(trouble, epoch=epoch, last_good_epoch=done.epoch)
            return False
        except StopRequested:
            replica.save_mid_epoch(done)
            stop.mark_saved()
            return True
        ledger.log_order(gather_objects(replica.data_loader.seen_ids), epoch=epoch)
        if _should_validate(worker_config.experiment, epoch):
            with replica.use_eval_weights():
                found = replica.predict_validation(epoch)
                rotten = set().union(*gather_objects(replica.data_loader.corrupt_rows))
                metrics["data/corrupt_rows"], metrics["skipped"] = ledger.log_corrupt_rows(rotten)
                if judge:
                    done, figures = judge.validate(
                        found,
                        replica.unwrapped_model,
                        heatmap_fn=replica.predict_crop_heatmaps,
                        epoch=epoch,
                        train_state=done,
                        corrupt_rows=rotten,
                    )
                    metrics |= figures
        if judge:
            metrics |= {"objective": judge.last_score, "epochs_done": epoch + 1}
        metrics["perf/epoch_s"] = pulse.measure_elapsed_s()
        done = replace(done, epoch=epoch, lr_factor=replica.lr_factor, partial_epoch=None)
        replica.report_epoch(metrics, done)
    stop.clear_flag()
    return True


def _build_validator(worker_config: WorkerConfig, data_loader: WorkerDataLoader) -> Validator:
    return Validator(
        worker_config.experiment,
        worker_config.manifest,
        worker_config.run_folder,
        load_crops=data_loader.val_reader.get_rows,
    )


def _should_validate(experiment: ExperimentConfig, epoch: int) -> bool:
    last = epoch == experiment.optim.epochs - 1
    return last or (epoch + 1) % experiment.evaluation.val_interval == 0

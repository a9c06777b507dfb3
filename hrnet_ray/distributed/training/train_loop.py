"""What one training worker does, in order. Ray Train calls `train_worker` once per GPU."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from joblib import cpu_count

from hrnet_ray.config import Experiment
from hrnet_ray.distributed.data.data_loader import Feed
from hrnet_ray.distributed.training.trainer import Replica
from hrnet_ray.distributed.training.worker_config import Job
from hrnet_ray.errors import UsageError
from hrnet_ray.runs.progress import Pulse
from hrnet_ray.runs.stop_request import Stopped, StopSign
from hrnet_ray.training.nan_guard import Diverging
from hrnet_ray.training.sample_log import Ledger
from hrnet_ray.training.validator import Judge
from hrnet_ray.utils.collectives import of_everybody, world_size


def train_worker(config: dict[str, Job]) -> None:
    """Train one replica to the end, from the last checkpoint if there is one.

    Raises:
        DivergedError: the loss is no number, at half the rate too.
        UsageError: a batch is too large for the GPU.
    """
    job = config["job"]
    torch.set_num_threads(min(job.threads, cpu_count()))  # they were counted over all nodes
    torch.backends.cudnn.benchmark = True  # as published: crops keep their shape, so a try pays
    job.host.require_storage()
    with too_large_explained(job):
        if not train(job):
            gc.collect()  # the net that diverged, before there is another
            train(job, slower=True)


@contextmanager
def too_large_explained(job: Job) -> Iterator[None]:
    """Turn a GPU that is too small for a batch into what to do about it: no restart helps."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        optim, shape = job.experiment.optim, job.experiment.data.input_hw
        crops = -(-optim.batch_size // world_size())
        raise UsageError(
            f"{crops} crops of {shape[0]} x {shape[1]} are too many for a GPU at once",
            f"--optim.batch-size {optim.batch_size} --optim.accumulate {optim.accumulate}, "
            f"{world_size()} workers: {str(error).splitlines()[0][:120]}",
            f"--optim.accumulate {2 * optim.accumulate} learns the same batch in smaller parts; "
            "hrnet-ray doctor --gpu tells how many fit",
        ) from error


def train(job: Job, *, slower: bool = False) -> bool:
    """Go on from the newest checkpoint; False when it diverged, on every worker alike.

    `slower` goes on at a lower rate than before, for good; then diverging is an error.
    """
    host, epochs = job.host, job.experiment.optim.epochs
    torch.manual_seed(job.experiment.seed)

    replica = Replica(job)
    first = host.rank() == 0
    judge = _judge(job, replica.feed) if first else None
    ledger = Ledger(job.manifest, job.run_folder, write_order=job.write_order, active=first)
    pulse = Pulse(job.run_folder, epochs=epochs, active=first)
    done = replica.resume(slower=slower)
    stop = StopSign(job.run_folder, first=first)

    for epoch in range(done.epoch + 1, epochs):
        try:
            metrics = replica.learn(epoch, pulse, stop, begun=done.begun)
        except Diverging as trouble:
            replica.concede(trouble, epoch=epoch, since=done.epoch)
            return False
        except Stopped:
            replica.pause(done)
            stop.saved()
            return True
        ledger.order(of_everybody(replica.feed.met), epoch=epoch)
        if _validates(job.experiment, epoch):
            with replica.judged():
                found = replica.predict(epoch)
                rotten = set().union(*of_everybody(replica.feed.rotten))
                metrics["data/skipped"], metrics["skipped"] = ledger.skipped(rotten)
                if judge:
                    done, figures = judge.judge(
                        found,
                        replica.bare,
                        look=replica.heatmaps,
                        epoch=epoch,
                        done=done,
                        rotten=rotten,
                    )
                    metrics |= figures
        if judge:
            metrics |= {"objective": judge.last, "epochs_done": epoch + 1}
        metrics["perf/epoch_s"] = pulse.elapsed()
        done = replace(done, epoch=epoch, rate=replica.rate, begun=None)
        replica.report(metrics, done)
    stop.close()
    return True


def _judge(job: Job, feed: Feed) -> Judge:
    return Judge(job.experiment, job.manifest, job.run_folder, crops=feed.val.take)


def _validates(experiment: Experiment, epoch: int) -> bool:
    last = epoch == experiment.optim.epochs - 1
    return last or (epoch + 1) % experiment.evaluation.every == 0

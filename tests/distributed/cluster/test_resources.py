import pytest

from hrnet_ray.config import ClusterConfig
from hrnet_ray.distributed.cluster.resources import (
    compute_max_concurrent_trials,
    compute_worker_resources,
    require_min_workers,
)
from hrnet_ray.errors import ClusterError, UsageError

LAPTOP = {"CPU": 2.0}
STATION = {"CPU": 16.0, "GPU": 4.0}


def test_two_workers_on_two_cpus_leave_one_cpu_for_the_data():
    share = compute_worker_resources(ClusterConfig(num_workers=2), LAPTOP)

    assert (share.cpus, share.gpus, share.threads) == (0.5, 0, 1)


def test_one_worker_on_a_laptop_uses_both_cores():
    share = compute_worker_resources(ClusterConfig(num_workers=1), LAPTOP)

    assert (share.cpus, share.threads) == (1.0, 2)


def test_gpus_are_taken_where_there_are_some():
    assert compute_worker_resources(ClusterConfig(num_workers=4), STATION).gpus == 1
    assert compute_worker_resources(ClusterConfig(num_workers=4, device="cpu"), STATION).gpus == 0


def test_a_gpu_that_nobody_has_is_refused_with_what_there_is():
    with pytest.raises(ClusterError) as refused:
        compute_worker_resources(ClusterConfig(num_workers=2, device="gpu"), LAPTOP)

    assert str(refused.value) == (
        "the cluster has too few GPUs\n"
        "  2 workers want 2 GPUs | have 0\n"
        "  fix: --cluster.device cpu, fewer --cluster.num_workers, or a larger cluster"
    )


def test_sixty_four_workers_on_two_cpus_are_refused():
    with pytest.raises(ClusterError, match=r"64 workers want 17 CPUs \| have 2"):
        compute_worker_resources(ClusterConfig(num_workers=64), LAPTOP)


def test_an_elastic_run_counts_on_as_many_workers_as_get_a_cpu_each():
    elastic = ClusterConfig(num_workers=8, min_workers=1, device="cpu")

    assert compute_worker_resources(elastic, {"CPU": 5.0}).cpus == 1.0  # four workers, and the data
    assert compute_worker_resources(elastic, LAPTOP).threads == 1  # Ray starts two
    assert compute_worker_resources(elastic, STATION).threads == 2  # all eight


def test_an_elastic_run_is_refused_when_not_even_the_fewest_fit():
    with pytest.raises(ClusterError) as refused:
        compute_worker_resources(
            ClusterConfig(num_workers=8, min_workers=2, device="gpu"), {"CPU": 4.0, "GPU": 1.0}
        )

    assert str(refused.value) == (
        "the cluster has too few GPUs\n"
        "  at least 2 workers want 2 GPUs | have 1\n"
        "  fix: --cluster.device cpu, fewer --cluster.min-workers, or a larger cluster"
    )


def test_gpus_limit_an_elastic_run_to_what_is_there():
    share = compute_worker_resources(ClusterConfig(num_workers=8, min_workers=2), STATION)

    assert (share.cpus, share.gpus, share.threads) == (1.0, 1, 4)


def test_what_is_left_must_hold_the_fewest_workers():
    share = compute_worker_resources(ClusterConfig(num_workers=2, min_workers=1), {"CPU": 2.0})

    require_min_workers(ClusterConfig(num_workers=2, min_workers=1), share, {"CPU": 1.0})
    with pytest.raises(ClusterError, match=r"2 workers want 2 CPUs \| have 1"):
        require_min_workers(ClusterConfig(num_workers=2), share, {"CPU": 1.0})


@pytest.mark.parametrize("fewest", [0, 3])
def test_the_fewest_workers_are_between_one_and_all(fewest):
    with pytest.raises(UsageError, match="min-workers"):
        ClusterConfig(num_workers=2, min_workers=fewest)


@pytest.mark.parametrize(
    ("cluster", "have", "trials", "at_once"),
    [
        (ClusterConfig(num_workers=1), LAPTOP, 24, 2),
        (ClusterConfig(num_workers=1), LAPTOP, 1, 1),
        (ClusterConfig(num_workers=2), LAPTOP, 24, 1),
        (ClusterConfig(num_workers=1), STATION, 24, 4),
        (ClusterConfig(num_workers=2), STATION, 24, 2),
        (ClusterConfig(num_workers=1, device="cpu"), STATION, 24, 8),
    ],
)
def test_trials_never_starve_each_other(cluster, have, trials, at_once):
    assert compute_max_concurrent_trials(cluster, have, num_trials=trials) == at_once

    share = compute_worker_resources(
        cluster, have, concurrent_trials=at_once
    )  # and there is room for all of them
    assert at_once * cluster.num_workers * share.cpus <= have["CPU"] - 1


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_machines_are_waited_for_some_time_and_not_for_ever(seconds):
    with pytest.raises(UsageError, match="resource-timeout-s"):
        ClusterConfig(resource_timeout_s=seconds)

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


def test_two_workers_on_two_cpus_leave_one_cpu_for_data():
    resources = compute_worker_resources(ClusterConfig(num_workers=2), LAPTOP)

    assert (resources.cpus, resources.gpus, resources.threads) == (0.5, 0, 1)


def test_one_worker_on_a_laptop_has_two_threads():
    resources = compute_worker_resources(ClusterConfig(num_workers=1), LAPTOP)

    assert (resources.cpus, resources.threads) == (1.0, 2)


def test_gpus_are_used_if_available():
    assert compute_worker_resources(ClusterConfig(num_workers=4), STATION).gpus == 1
    assert compute_worker_resources(ClusterConfig(num_workers=4, device="cpu"), STATION).gpus == 0


def test_missing_gpus_are_an_error_with_the_available_ones():
    with pytest.raises(ClusterError) as refused:
        compute_worker_resources(ClusterConfig(num_workers=2, device="gpu"), LAPTOP)

    assert str(refused.value) == (
        "the cluster has too few GPUs\n"
        "  2 workers need 2 GPUs, 0 available\n"
        "  fix: use --cluster.device cpu, a smaller --cluster.num-workers, or a larger cluster"
    )


def test_sixty_four_workers_on_two_cpus_are_refused():
    with pytest.raises(ClusterError, match=r"64 workers need 17 CPUs, 2 available"):
        compute_worker_resources(ClusterConfig(num_workers=64), LAPTOP)


def test_an_elastic_run_has_as_many_workers_as_get_a_cpu_each():
    elastic = ClusterConfig(num_workers=8, min_workers=1, device="cpu")

    assert compute_worker_resources(elastic, {"CPU": 5.0}).cpus == 1.0  # four workers, and data
    assert compute_worker_resources(elastic, LAPTOP).threads == 1  # Ray starts two
    assert compute_worker_resources(elastic, STATION).threads == 2  # all eight


def test_an_elastic_run_is_refused_if_min_workers_do_not_fit():
    with pytest.raises(ClusterError) as refused:
        compute_worker_resources(ClusterConfig(num_workers=8, min_workers=2, device="gpu"), {"CPU": 4.0, "GPU": 1.0})

    assert str(refused.value) == (
        "the cluster has too few GPUs\n"
        "  at least 2 workers need 2 GPUs, 1 available\n"
        "  fix: use --cluster.device cpu, a smaller --cluster.min-workers, or a larger cluster"
    )


def test_gpus_limit_the_workers_of_an_elastic_run():
    resources = compute_worker_resources(ClusterConfig(num_workers=8, min_workers=2), STATION)

    assert (resources.cpus, resources.gpus, resources.threads) == (1.0, 1, 4)


def test_remaining_resources_must_hold_min_workers():
    resources = compute_worker_resources(ClusterConfig(num_workers=2, min_workers=1), {"CPU": 2.0})

    require_min_workers(ClusterConfig(num_workers=2, min_workers=1), resources, {"CPU": 1.0})
    with pytest.raises(ClusterError, match=r"2 workers need 2 CPUs, 1 available"):
        require_min_workers(ClusterConfig(num_workers=2), resources, {"CPU": 1.0})


@pytest.mark.parametrize("min_workers", [0, 3])
def test_min_workers_is_between_one_and_num_workers(min_workers):
    with pytest.raises(UsageError, match="min-workers"):
        ClusterConfig(num_workers=2, min_workers=min_workers)


@pytest.mark.parametrize(
    ("cluster", "available", "trials", "concurrent"),
    [
        (ClusterConfig(num_workers=1), LAPTOP, 24, 2),
        (ClusterConfig(num_workers=1), LAPTOP, 1, 1),
        (ClusterConfig(num_workers=2), LAPTOP, 24, 1),
        (ClusterConfig(num_workers=1), STATION, 24, 4),
        (ClusterConfig(num_workers=2), STATION, 24, 2),
        (ClusterConfig(num_workers=1, device="cpu"), STATION, 24, 8),
    ],
)
def test_trials_never_starve_each_other(cluster, available, trials, concurrent):
    assert compute_max_concurrent_trials(cluster, available, num_trials=trials) == concurrent

    resources = compute_worker_resources(cluster, available, concurrent_trials=concurrent)  # all trials fit
    assert concurrent * cluster.num_workers * resources.cpus <= available["CPU"] - 1


@pytest.mark.parametrize("seconds", [-1.0, float("inf"), float("nan")])
def test_the_resource_timeout_is_finite_and_not_negative(seconds):
    with pytest.raises(UsageError, match="resource-timeout-s"):
        ClusterConfig(resource_timeout_s=seconds)

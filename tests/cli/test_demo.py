"""Test the resources and the clean-up of the demo; `make demo` tests it as a whole."""

from dataclasses import replace
from pathlib import Path

from hrnet_ray.cli.demo import SEARCH_CONFIG, DemoArgs, build_demo_cluster_config, delete_demo
from hrnet_ray.distributed.cluster.resources import compute_worker_resources

ONE_GPU = {"CPU": 8.0, "GPU": 1.0}


def test_the_demo_and_its_search_fit_a_machine_with_one_gpu():
    cluster = build_demo_cluster_config(DemoArgs())

    assert compute_worker_resources(cluster, ONE_GPU).gpus == 0
    assert SEARCH_CONFIG.max_concurrent_trials == 2
    assert compute_worker_resources(replace(cluster, num_workers=1), ONE_GPU, concurrent_trials=2).gpus == 0


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def list_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_overwrite_deletes_the_demo_and_keeps_other_runs(tmp_path: Path):
    others = ["data/lynxes/manifest.json", "mlflow.db", "mpii/train/x", "tigers/mine/summary.json"]
    write(tmp_path, *others)
    write(tmp_path, "predictions.png", "summary.json", "tigers/train/x", "tigers/search/x")
    write(tmp_path, "data/tigers/manifest.json", "data/tigers/pictures/unseen/images/val/1.jpg")

    delete_demo(tmp_path)

    assert list_files(tmp_path) == others


def test_without_a_demo_nothing_is_deleted(tmp_path: Path):
    files = ["data/tigers/manifest.json", "predictions.png", "summary.json", "tigers/train/x"]
    write(tmp_path, *files)

    delete_demo(tmp_path)

    assert list_files(tmp_path) == files

from pathlib import Path

import pytest

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.doctor.config_and_data import check_dataset, check_recipe
from hrnet_ray.doctor.result import CheckResult


def page(folder: Path, *lines: str) -> Path:
    path = folder / "a page.py"
    path.write_text("\n".join(["from hrnet_ray.config import *", *lines]))
    return path


def test_a_page_is_read_with_what_it_searches(tmp_path: Path):
    path = page(
        tmp_path,
        "print('{chatter}')",
        "BASE = ExperimentConfig(name='x', data=DataConfig(root='somewhere', input_hw=(192, 256)))",
        "from ray import tune",
        "SPACE = {'optim.lr': tune.loguniform(1e-4, 1e-2)}",
    )

    settings = check_recipe(path)

    assert settings.result.state == "ok"
    assert settings.result.detail.startswith(f"{path}: x, ")
    assert settings.result.detail.endswith(" settings, 1 of them searched")
    assert settings.experiment is not None
    assert settings.experiment.data.input_hw == (192, 256)


@pytest.mark.parametrize(
    ("lines", "line", "said"),
    [
        (["", "BASE = Experimint()"], 3, "NameError: name 'Experimint' is not defined"),
        (["BASE = (", ""], 2, "SyntaxError: '(' was never closed"),
        (["BASE = HeatmapConfig(sigma=0)"], 2, "UsageError: heatmap.sigma cannot be 0"),
        (["base = 1"], 1, "ValueError: it has no `BASE = ExperimentConfig(...)`"),
        (
            ["from ray import tune", "BASE = ExperimentConfig()", "SPACE = {'optim.lx': tune.randn()}"],
            1,
            "UsageError: a sampler that a study cannot draw from, optim.lx",
        ),
        (
            [
                "from ray import tune",
                "BASE = ExperimentConfig()",
                "SPACE = {'model.width': tune.uniform(16, 64)}",
            ],
            1,
            "UsageError: model.width cannot be 16.0, --space model.width=uniform(16,64)",
        ),
    ],
)
def test_a_page_that_cannot_be_read_is_told_with_the_line(
    tmp_path: Path, lines: list[str], line: int, said: str
):
    path = page(tmp_path, *lines)

    settings = check_recipe(path)

    assert settings.experiment is None
    assert settings.result.state == "wrong"
    assert f"{path}, line {line}: {said}" in settings.result.detail
    assert settings.result.fix == f"\"${{EDITOR:-vi}}\" +{line} '{path}'"


def test_a_page_that_ends_the_process_ends_only_its_own(tmp_path: Path):
    found = check_recipe(page(tmp_path, "import os", "os._exit(7)")).result

    assert found.state == "wrong"
    assert found.detail.endswith("ends with exit code 7 when it is read")


def test_a_page_that_waits_is_left(tmp_path: Path):
    path = page(tmp_path, "import time", "time.sleep(60)")

    found = check_recipe(path, timeout_s=1.0).result

    assert found.state == "careful"
    assert found.detail.startswith(f"could not look: {path} is not read in 1 s")


def test_a_skeleton_is_read_as_prepare_reads_it(tmp_path: Path):
    good, bad = tmp_path / "fox.yaml", tmp_path / "bad.yaml"
    good.write_text("keypoints: [nose, left_ear, right_ear]")
    bad.write_text("keypoints: [nose, left_ear]")

    assert check_recipe(good).result == CheckResult("ok", f"{good}: skeleton 'fox' of 3 keypoints")
    assert check_recipe(bad).result.state == "wrong"
    assert "'left_ear' has no keypoint 'right_ear'" in check_recipe(bad).result.detail


def test_a_file_that_is_neither_or_missing_is_wrong(tmp_path: Path):
    (tmp_path / "x.toml").write_text("")

    assert check_recipe(tmp_path / "x.toml").result.state == "wrong"
    assert check_recipe(tmp_path / "x.py").result.fix == "ls experiments/*.py"
    assert check_recipe(None).result.state == "unasked"


def test_every_experiment_of_the_house_is_a_page(root: Path):
    # The smallest of them by a whole process, the rest by tests/experiments.
    found = check_recipe(root / "experiments" / "train_mpii.py")

    assert found.result.state == "ok"
    assert isinstance(found.experiment, ExperimentConfig)


def test_a_prepared_data_set_is_vouched_for(tigers: DatasetManifest):
    found = check_dataset(str(tigers.root))

    rows = {name: split.rows for name, split in tigers.splits.items()}
    assert found == CheckResult(
        "ok",
        f"tigers: {rows['train']} in train, {rows['val']} in val; 2 shards as the manifest says",
    )


def test_a_shard_that_is_not_there_is_named(tigers: DatasetManifest, tmp_path: Path):
    copy = tmp_path / "tigers"
    copy.mkdir()
    (copy / "manifest.json").write_bytes((Path(tigers.root) / "manifest.json").read_bytes())

    found = check_dataset(str(copy))

    assert found.state == "wrong"
    assert "2 shards cannot be used" in found.detail
    assert "train/00000.parquet (missing)" in found.detail
    assert found.fix.startswith(f"hrnet-ray check {copy}")


def test_a_folder_that_nobody_prepared_is_told(tmp_path: Path):
    found = check_dataset(str(tmp_path))

    assert found.state == "wrong"
    assert found.fix.startswith(f"hrnet-ray prepare synthetic --kind tigers --out {tmp_path}")
    assert check_dataset(None).state == "unasked"


def test_a_damaged_manifest_is_told(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"format": 2')

    found = check_dataset(str(tmp_path))

    assert found.state == "wrong"
    assert found.detail.startswith("a manifest that cannot be read")

from pathlib import Path

import pytest

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.doctor.config_and_data import check_dataset, check_recipe
from hrnet_ray.doctor.result import CheckResult


def write_recipe(folder: Path, *lines: str) -> Path:
    path = folder / "a recipe.py"
    path.write_text("\n".join(["from hrnet_ray.config import *", *lines]))
    return path


def test_a_recipe_is_loaded_with_its_search_space(tmp_path: Path):
    path = write_recipe(
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
    ("lines", "line", "message"),
    [
        (["", "BASE = Experimint()"], 3, "NameError: name 'Experimint' is not defined"),
        (["BASE = (", ""], 2, "SyntaxError: '(' was never closed"),
        (["BASE = HeatmapConfig(sigma=0)"], 2, "UsageError: heatmap.sigma cannot be 0"),
        (["base = 1"], 1, "ValueError: no `BASE = ExperimentConfig(...)`"),
        (
            [
                "from ray import tune",
                "BASE = ExperimentConfig()",
                "SPACE = {'optim.lx': tune.randn()}",
            ],
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
def test_an_invalid_recipe_is_reported_with_the_line(tmp_path: Path, lines: list[str], line: int, message: str):
    path = write_recipe(tmp_path, *lines)

    settings = check_recipe(path)

    assert settings.experiment is None
    assert settings.result.state == "wrong"
    assert f"{path}, line {line}: {message}" in settings.result.detail
    assert settings.result.fix == f"\"${{EDITOR:-vi}}\" +{line} '{path}'"


def test_a_recipe_that_exits_ends_only_its_own_process(tmp_path: Path):
    result = check_recipe(write_recipe(tmp_path, "import os", "os._exit(7)")).result

    assert result.state == "wrong"
    assert result.detail.endswith("ends the process with exit code 7 when it is loaded")


def test_a_recipe_that_hangs_is_a_timeout(tmp_path: Path):
    path = write_recipe(tmp_path, "import time", "time.sleep(60)")

    result = check_recipe(path, timeout_s=1.0).result

    assert result.state == "careful"
    assert result.detail.startswith(f"not checked: {path} did not load in 1 s")


def test_a_skeleton_is_checked_as_by_prepare(tmp_path: Path):
    good, bad = tmp_path / "fox.yaml", tmp_path / "bad.yaml"
    good.write_text("keypoints: [nose, left_ear, right_ear]")
    bad.write_text("keypoints: [nose, left_ear]")

    assert check_recipe(good).result == CheckResult("ok", f"{good}: skeleton 'fox' of 3 keypoints")
    assert check_recipe(bad).result.state == "wrong"
    assert "'left_ear' has no keypoint 'right_ear'" in check_recipe(bad).result.detail


def test_a_missing_file_or_another_type_is_wrong(tmp_path: Path):
    (tmp_path / "x.toml").write_text("")

    assert check_recipe(tmp_path / "x.toml").result.state == "wrong"
    assert check_recipe(tmp_path / "x.py").result.fix == "ls experiments/*.py"
    assert check_recipe(None).result.state == "unasked"


def test_an_experiment_of_this_repository_is_a_valid_recipe(root: Path):
    # One in a separate process here; tests/experiments loads all of them.
    result = check_recipe(root / "experiments" / "train_mpii.py")

    assert result.result.state == "ok"
    assert isinstance(result.experiment, ExperimentConfig)


def test_a_prepared_dataset_is_ok(tigers: DatasetManifest):
    result = check_dataset(str(tigers.root))

    rows = {name: split.rows for name, split in tigers.splits.items()}
    assert result == CheckResult(
        "ok",
        f"tigers: {rows['train']} in train, {rows['val']} in val; 2 shards match the manifest",
    )


def test_a_missing_shard_is_named(tigers: DatasetManifest, tmp_path: Path):
    copy = tmp_path / "tigers"
    copy.mkdir()
    (copy / "manifest.json").write_bytes((Path(tigers.root) / "manifest.json").read_bytes())

    result = check_dataset(str(copy))

    assert result.state == "wrong"
    assert "2 shards cannot be used" in result.detail
    assert "train/00000.parquet (missing)" in result.detail
    assert result.fix.startswith(f"hrnet-ray check {copy}")


def test_a_folder_without_a_dataset_is_reported(tmp_path: Path):
    result = check_dataset(str(tmp_path))

    assert result.state == "wrong"
    assert result.fix.startswith(f"hrnet-ray prepare synthetic --kind tigers --out {tmp_path}")
    assert check_dataset(None).state == "unasked"


def test_a_damaged_manifest_is_reported(tmp_path: Path):
    (tmp_path / "manifest.json").write_text('{"format": 2')

    result = check_dataset(str(tmp_path))

    assert result.state == "wrong"
    assert result.detail.startswith("a manifest that cannot be read")

"""Test `hrnet-ray evaluate` from its flags to its files."""

import json
import shutil
from pathlib import Path

import pytest
from pyarrow.fs import FileSystem, copy_files

from hrnet_ray.cli import main
from hrnet_ray.cli.model_resolution import find_model_dir
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_package import load_model
from hrnet_ray.skeletons import MPII
from tests.data_fixtures import bucket, s3
from tests.evaluation.evaluated_models import EASY, write_model, write_tigers

__all__ = ["bucket", "s3"]


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_model(folder / "model", EASY)
    return folder


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], tigers: DatasetManifest, run_folder: Path):
    """Run `hrnet-ray evaluate` on the tigers and return exit code, stdout and stderr."""

    def run(*words: object, **flags: object) -> tuple[int | str | None, str, str]:
        flags = {"model": run_folder, "data": tigers.root, "resamples": 20, **flags}
        named = [word for name, value in flags.items() for word in (f"--{name}", value)]
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *map(str, named), *map(str, words)])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


def test_a_dataset_in_a_bucket_gets_the_same_scores_as_one_in_a_folder(evaluate, tigers: DatasetManifest, bucket):
    files, path = FileSystem.from_uri(bucket("tigers"))
    copy_files(str(tigers.root), path, destination_filesystem=files)

    (code, remote, stderr), (_, local, _) = evaluate(data=bucket("tigers")), evaluate()

    assert (code, stderr) == (0, "")
    assert "OKS sigmas" in remote
    assert remote.splitlines()[1:] == local.splitlines()[1:]  # the first line has the speed


def test_the_scores_are_printed_and_written(evaluate, tmp_path: Path, run_folder: Path):
    code, stdout, stderr = evaluate(out=tmp_path / "scores")

    assert (code, stderr) == (0, "")
    assert stdout.startswith("predicted ")
    assert f"{run_folder}: decode quarter, flip test on" in stdout
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        *("scores.json", "predictions.coco.json", "evaluation.html"),
        *("pck_curve.png", "per_keypoint.png", "worst_predictions.png"),
    }
    document = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert f"OKS_AP {document['value']:.4f}, 95 % interval" in stdout
    results = json.loads((tmp_path / "scores" / "predictions.coco.json").read_text())
    assert len(results) == document["used"] - document["nms_dropped"]
    assert results[0].keys() == {"image_id", "category_id", "keypoints", "score"}


def test_the_flags_of_decoding_and_flip_test_are_used_and_printed(evaluate, tmp_path: Path):
    _, stdout, _ = evaluate("--decode", "argmax", "--flip-test", "False", out=tmp_path)

    assert "decode argmax, flip test off" in stdout
    document = json.loads((tmp_path / "scores.json").read_text())
    assert (document["decode"], document["flip_test"]) == ("argmax", False)


def test_two_models_are_compared(evaluate, tmp_path: Path):
    other = write_model(tmp_path / "other", EASY, seed=5)

    code, stdout, _ = evaluate(**{"compare-to": other}, confidence=0.9, seed=3)

    assert code == 0
    assert f"compared to {other} (" in stdout
    assert "90 % interval" in stdout
    assert "noise" in stdout.splitlines()[-1]


def test_a_model_is_found_by_its_folder_its_run_or_its_weights(run_folder: Path):
    folder = run_folder / "model"

    for text in (folder, run_folder, folder / "model.safetensors"):
        assert find_model_dir(str(text), "--model") == folder
    shutil.copyfile(folder / "model.safetensors", folder / "best.safetensors")
    assert find_model_dir(str(folder / "best.safetensors"), "--model") == folder / "best.safetensors"
    assert load_model(folder / "best.safetensors")[1] == load_model(folder)[1]
    with pytest.raises(DataError) as refused:
        find_model_dir("runs/none", "--compare-to")
    assert str(refused.value) == (
        "the model does not exist\n"
        "  --compare-to runs/none\n"
        "  fix: give a folder with config.json and model.safetensors, a run's folder "
        "(runs/<dataset>/<run>), the id of an MLflow run, or models:/NAME@champion"
    )


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        ({"confidence": 1.0}, 2, "--confidence must be between 0 and 1 (exclusive), got 1\n"),
        ({"oks-nms": 0.0}, 2, "--oks-nms must be above 0 and at most 1, got 0\n"),
        ({"resamples": 1}, 2, "--resamples must be at least 2, got 1\n"),
        ({"seed": -1}, 2, "--seed must be at least 0, got -1\n"),
        ({"split": "test"}, 3, "no split 'test'\n  "),
        ({"data": "/nowhere/at/all"}, 3, "no such folder\n  --data /nowhere/at/all\n"),
        ({"boxes": "/nowhere.json"}, 3, "the file is not there\n  --boxes /nowhere.json\n"),
        ({"model": "/nowhere"}, 3, "the model does not exist\n  --model /nowhere\n"),
        ({"compare-to": "/nowhere"}, 3, "the model does not exist\n  --compare-to /nowhere\n"),
        ({"out": "/dev/null/x"}, 3, "a folder that cannot be made\n  --out /dev/null/x: "),
    ],
)
def test_mistakes_are_answered_in_three_lines(evaluate, flags: dict, code: int, message: str):
    exit_code, _, stderr = evaluate(**flags)

    assert exit_code == code
    assert stderr.startswith(f"error: {message}")
    assert len(stderr.splitlines()) == 3


def test_a_model_of_another_skeleton_is_refused(evaluate, tmp_path: Path):
    code, _, stderr = evaluate(model=write_model(tmp_path / "people", MPII))

    assert code == 3
    assert stderr == (
        "error: the model and the data have different keypoints\n"
        f"  model: {', '.join(MPII.keypoints)} | data: {', '.join(EASY.keypoints)}\n"
        "  fix: use a model that was trained on this skeleton\n"
    )

"""`hrnet-ray evaluate` as a user meets it."""

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
from tests.evaluation.evaluated_models import EASY, write_easy_tigers, write_model

__all__ = ["bucket", "s3"]


@pytest.fixture(scope="module")
def tigers(tmp_path_factory: pytest.TempPathFactory) -> DatasetManifest:
    return write_easy_tigers(tmp_path_factory.mktemp("tigers"))


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_model(folder / "model", EASY)
    return folder


@pytest.fixture
def evaluate(capsys: pytest.CaptureFixture[str], tigers: DatasetManifest, run_folder: Path):
    """Run `hrnet-ray evaluate` on the tigers: exit code, what it printed, what it complained of."""

    def run(*words: object, **flags: object) -> tuple[int | str | None, str, str]:
        flags = {"model": run_folder, "data": tigers.root, "resamples": 20, **flags}
        named = [word for name, value in flags.items() for word in (f"--{name}", value)]
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *map(str, named), *map(str, words)])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


def test_data_in_a_bucket_are_scored_as_those_in_a_folder(
    evaluate, tigers: DatasetManifest, bucket
):
    files, path = FileSystem.from_uri(bucket("tigers"))
    copy_files(str(tigers.root), path, destination_filesystem=files)

    (code, there, complained), (_, here, _) = evaluate(data=bucket("tigers")), evaluate()

    assert (code, complained) == (0, "")
    assert "OKS sigmas" in there
    assert there.splitlines()[1:] == here.splitlines()[1:]  # the first says how quick it was


def test_it_prints_and_writes(evaluate, tmp_path: Path, run_folder: Path):
    code, said, complained = evaluate(out=tmp_path / "scores")

    assert (code, complained) == (0, "")
    assert said.startswith("predicted ")
    assert f"{run_folder}: decode quarter, flip test on" in said
    assert {path.name for path in (tmp_path / "scores").iterdir()} == {
        *("scores.json", "predictions.coco.json", "evaluation.html"),
        *("pck_curve.png", "per_keypoint.png", "worst16.png"),
    }
    document = json.loads((tmp_path / "scores" / "scores.json").read_text())
    assert f"OKS_AP {document['value']:.4f}, 95 % interval" in said
    results = json.loads((tmp_path / "scores" / "predictions.coco.json").read_text())
    assert len(results) == document["used"] - document["nms_dropped"]
    assert results[0].keys() == {"image_id", "category_id", "keypoints", "score"}


def test_decoding_and_flip_test_are_asked_for_and_stated(evaluate, tmp_path: Path):
    _, said, _ = evaluate("--decode", "argmax", "--flip-test", "False", out=tmp_path)

    assert "decode argmax, flip test off" in said
    document = json.loads((tmp_path / "scores.json").read_text())
    assert (document["decode"], document["flip_test"]) == ("argmax", False)


def test_two_models_are_compared(evaluate, tmp_path: Path):
    other = write_model(tmp_path / "other", EASY, seed=5)

    code, said, _ = evaluate(**{"compare-to": other}, confidence=0.9, seed=3)

    assert code == 0
    assert f"against {other} (" in said
    assert "90 % interval" in said
    assert "noise" in said.splitlines()[-1]


def test_a_model_is_found_by_its_folder_its_run_or_its_weights(run_folder: Path):
    folder = run_folder / "model"

    for text in (folder, run_folder, folder / "model.safetensors"):
        assert find_model_dir(str(text), "--model") == folder
    shutil.copyfile(folder / "model.safetensors", folder / "best.safetensors")
    assert (
        find_model_dir(str(folder / "best.safetensors"), "--model") == folder / "best.safetensors"
    )
    assert load_model(folder / "best.safetensors")[1] == load_model(folder)[1]
    with pytest.raises(DataError) as refused:
        find_model_dir("runs/none", "--compare-to")
    assert str(refused.value) == (
        "no model there\n"
        "  --compare-to runs/none\n"
        "  fix: give a folder with config.json and model.safetensors, a run's folder "
        "(runs/<data set>/<run>), the id of an MLflow run, or models:/NAME@champion"
    )


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        ({"confidence": 1.0}, 2, "a value that cannot be\n  --confidence 1\n"),
        ({"oks-nms": 0.0}, 2, "a value that cannot be\n  --oks-nms 0\n"),
        ({"resamples": 1}, 2, "a value that cannot be\n  --resamples 1\n"),
        ({"seed": -1}, 2, "a value that cannot be\n  --seed -1\n"),
        ({"split": "test"}, 3, "no split 'test'\n  "),
        ({"data": "/nowhere/at/all"}, 3, "no such folder\n  --data /nowhere/at/all\n"),
        ({"boxes": "/nowhere.json"}, 3, "the file is not there\n  --boxes /nowhere.json\n"),
        ({"model": "/nowhere"}, 3, "no model there\n  --model /nowhere\n"),
        ({"compare-to": "/nowhere"}, 3, "no model there\n  --compare-to /nowhere\n"),
        ({"out": "/dev/null/x"}, 3, "a folder that cannot be made\n  --out /dev/null/x: "),
    ],
)
def test_mistakes_are_answered_in_three_lines(evaluate, flags: dict, code: int, said: str):
    ended, _, complained = evaluate(**flags)

    assert ended == code
    assert complained.startswith(f"error: {said}")
    assert len(complained.splitlines()) == 3


def test_a_model_of_another_skeleton_is_refused(evaluate, tmp_path: Path):
    code, _, said = evaluate(model=write_model(tmp_path / "people", MPII))

    assert code == 3
    assert said == (
        "error: a model of other keypoints than the data\n"
        f"  model: {', '.join(MPII.keypoints)} | data: {', '.join(EASY.keypoints)}\n"
        "  fix: use a model that was trained on this skeleton\n"
    )

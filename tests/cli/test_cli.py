"""The command as a user meets it: exit codes, and three lines for every mistake."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hrnet_ray.cli import run_script, run_with_error_handling
from hrnet_ray.cli.predict import PredictArgs
from hrnet_ray.errors import ClusterError, DataError, TrainingDivergedError, UsageError
from tests.cli.otters import truncate


def prepare_words(otters: Path, **changed: object) -> list[object]:
    flags = {
        "--images": otters / "images",
        "--annotations": otters / "otters.json",
        "--out": otters / "out",
        "--val-fraction": 0.5,
    }
    flags |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return ["prepare", "coco", *(word for flag in flags.items() for word in flag)]


# Words on the command line.


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            "trian",
            "error: no verb 'trian'\n  hrnet-ray trian\n  fix: did you mean `hrnet-ray train`?\n",
        ),
        (
            "xyzzy",
            "error: no verb 'xyzzy'\n"
            "  hrnet-ray xyzzy\n"
            "  fix: use one of prepare, check, train, tune, evaluate, promote, predict, "
            "serve, export, mlflow-sync, demo, doctor\n",
        ),
        (
            "predict --model m --input p --strct",
            "error: unrecognized options: --strct\n"
            "  hrnet-ray predict\n"
            "  fix: did you mean --strict? (see `hrnet-ray predict --help`)\n",
        ),
        (
            "predict --modle m --input p",
            "error: unrecognized options: --modle; missing: --model\n"
            "  hrnet-ray predict\n"
            "  fix: did you mean --model? (see `hrnet-ray predict --help`)\n",
        ),
        (
            "predict",
            "error: missing: --model, --input\n"
            "  hrnet-ray predict\n"
            "  fix: see `hrnet-ray predict --help`\n",
        ),
        (
            "prepare cocoo",
            "error: unrecognized options: cocoo\n"
            "  hrnet-ray prepare\n"
            "  fix: did you mean coco? (see `hrnet-ray prepare --help`)\n",
        ),
        (
            "prepare synthetic --kind lions --out x",
            "error: invalid choice 'lions' for argument '--kind'. "
            "Expected one of ('tigers', 'people')\n"
            "  hrnet-ray prepare synthetic\n"
            "  fix: see `hrnet-ray prepare synthetic --help`\n",
        ),
        (
            "prepare coc --images x --annotations y",
            "error: unrecognized options: coc, --images, --annotations\n"
            "  hrnet-ray prepare\n"
            "  fix: did you mean coco? (see `hrnet-ray prepare --help`)\n",
        ),
        (
            "train --cluster.worker 2",
            "error: unrecognized options: --cluster.worker\n"
            "  hrnet-ray train\n"
            "  fix: did you mean --cluster.num_workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --num-workers 2",
            "error: unrecognized options: --num-workers\n"
            "  hrnet-ray train\n"
            "  fix: did you mean --cluster.num_workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --evaluation.flip-test False",
            "error: unrecognized options: False\n"
            "  hrnet-ray train\n"
            "  fix: yes is --flag, no is --no-flag (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --optim.optimizer adan",
            "error: invalid choice 'adan' for argument '--optim.optimizer'. "
            "Expected one of ('adam', 'adamw')\n"
            "  hrnet-ray train\n"
            "  fix: did you mean adam? (see `hrnet-ray train --help`)\n",
        ),
        (
            "check",
            "error: missing: DATA\n  hrnet-ray check\n  fix: see `hrnet-ray check --help`\n",
        ),
        (
            "train --optim.lr fast",
            "error: error parsing --optim.lr: could not convert string to float: 'fast'\n"
            "  hrnet-ray train\n"
            "  fix: see `hrnet-ray train --help`\n",
        ),
    ],
)
@pytest.mark.parametrize("columns", ["50", "200"])
def test_a_word_that_is_not_understood_is_answered_in_three_lines(
    command, monkeypatch: pytest.MonkeyPatch, words: str, said: str, columns: str
):
    monkeypatch.setenv("COLUMNS", columns)  # tyro breaks its lines at the terminal's rim

    assert command(*words.split()) == (2, "", said)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_it_is_answered_alike_on_a_terminal_of_any_encoding(encoding: str):
    done = subprocess.run(
        [sys.executable, "-m", "hrnet_ray.cli", "predict", "--input", "p", "--strct"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )

    assert done.returncode == 2
    assert done.stderr == (
        "error: unrecognized options: --strct; missing: --model\n"
        "  hrnet-ray predict\n"
        "  fix: see `hrnet-ray predict --help`\n"
    )


def test_a_setting_that_cannot_be_is_answered_in_three_lines(command):
    code, _, said = command("train", "--data.input-hw", "100", "96")

    assert code == 2
    assert len(said.splitlines()) == 3
    assert "data.input_hw" in said


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_lists_every_verb(command, words: list[str]):
    code, said, complained = command(*words)

    assert (code, complained) == (0, "")
    for verb in ("prepare", "check", "train", "tune", "evaluate", "predict", "demo", "doctor"):
        assert f"\n  {verb} " in said


def test_a_verbs_help_lists_its_flags(command):
    code, said, _ = command("predict", "--help")

    assert code == 0
    for flag in ("--model", "--input", "--out", "--boxes", "--strict"):
        assert flag in said


@pytest.fixture(scope="module")
def loaded_by_help() -> set[str]:
    """All modules that a process holds after `hrnet-ray --help`."""
    code = (
        "import sys\n"
        "from hrnet_ray.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: hrnet-ray VERB")
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "heavy",
    [
        *("ray", "mlflow", "torch", "cv2", "pyarrow", "tyro"),
    ],
)
def test_help_is_quick_because_it_does_not_import(loaded_by_help: set[str], heavy: str):
    assert heavy not in loaded_by_help


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (DataError, 3), (ClusterError, 4), (TrainingDivergedError, 5)],
)
def test_every_kind_of_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], kind: type[UsageError], code: int
):
    def work() -> None:
        raise kind("what went wrong", "where it was", "what to do")

    assert run_with_error_handling(work) == code
    assert capsys.readouterr().err == (
        "error: what went wrong\n  where it was\n  fix: what to do\n"
    )


def test_ctrl_c_ends_with_a_sentence_that_is_true(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise KeyboardInterrupt

    assert run_with_error_handling(work) == 130
    assert run_with_error_handling(work, resumable=False) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\nstopped\n"


def test_an_experiments_script_starts_like_a_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["tune_otters.py", "--model", "m", "--input", "p"])
    with pytest.raises(SystemExit) as end:
        run_script(PredictArgs, lambda args: 7 if args.model == "m" else 0, name="tune_otters")
    assert end.value.code == 7

    monkeypatch.setattr(sys, "argv", ["tune_otters.py"])
    with pytest.raises(SystemExit) as end:
        run_script(PredictArgs, lambda args: 7, name="tune_otters")

    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: missing: --model, --input\n  tune_otters\n  fix: see `tune_otters --help`\n"
    )


# Files and folders.


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        (
            {"images": "otters.json"},
            3,
            "the folder is a file\n  --images {otters.json}\n  fix: give an existing folder",
        ),
        (
            {"images": "nowhere"},
            3,
            "the folder is not there\n  --images {nowhere}\n  fix: give an existing folder",
        ),
        (
            {"annotations": "images"},
            3,
            "the file is a folder\n  --annotations {images}\n  fix: give an existing file",
        ),
        (
            {"val_annotations": "nothing.json"},
            3,
            "the file is not there\n  --val-annotations {nothing.json}\n"
            "  fix: give an existing file",
        ),
        (
            {"val_annotations": "otters.json", "val_images": "otters.json"},
            3,
            "the folder is a file\n  --val-images {otters.json}\n  fix: give an existing folder",
        ),
        (
            {"val_images": "images"},
            2,
            "--val-images without --val-annotations\n  --val-images {images}\n"
            "  fix: name both, or neither",
        ),
        (
            {"out": "otters.json"},
            3,
            "a file where a folder is wanted\n  --out {otters.json}\n  fix: give a folder",
        ),
    ],
)
def test_a_file_for_a_folder_and_the_like_are_refused_by_the_flags_name(
    command, otters: Path, changed: dict[str, str], code: int, said: str
):
    flags = {flag: otters / name for flag, name in changed.items()}

    ended, _, complained = command(*prepare_words(otters, **flags))

    for name in changed.values():
        said = said.replace(f"{{{name}}}", str(otters / name))
    assert complained == f"error: {said}\n"
    assert ended == code
    assert not (otters / "out" / "manifest.json").exists()


@pytest.mark.parametrize("share", [0.0, 1.0, 1.5, -0.5, float("nan")])
def test_a_share_that_leaves_one_side_empty_is_refused(command, otters: Path, share: float):
    code, _, said = command(*prepare_words(otters, val_fraction=share))

    assert code == 2
    assert said == (
        "error: a share that leaves nothing to learn or nothing to score\n"
        f"  --val-fraction {share}\n"
        "  fix: give a number between 0 and 1, such as 0.1\n"
    )


def test_truth_without_its_annotations_and_a_canvas_of_nothing_are_refused(command, otters: Path):
    words = ["--images", otters / "images", "--annotations", otters / "otters.json"]
    common = ["prepare", "mpii", *words, "--out", otters / "out"]

    assert command(*common, "--gt-valid", "gt.mat")[::2] == (
        2,
        "error: --gt-valid without --val-annotations\n  --gt-valid gt.mat\n"
        "  fix: name both, or neither\n",
    )
    assert command(*common, "--max-image-size", "0")[::2] == (
        2,
        "error: a canvas without pixels\n  --max-image-size 0\n  fix: such as 416\n",
    )


def test_a_skeleton_that_nobody_knows_is_refused_with_the_known_ones(command, otters: Path):
    code, _, said = command(*prepare_words(otters, skeleton="tigger"))

    assert code == 3
    assert said == (
        "error: no skeleton 'tigger'\n"
        "  known: mpii, atrw, coco\n"
        "  fix: use one of these, a YAML file (keypoints: [...]), or leave it out to take the "
        "category's\n"
    )


def test_a_truncated_jpeg_is_named_and_can_be_left_out(command, otters: Path):
    size = truncate(otters / "images" / "c.jpg")

    code, _, said = command(*prepare_words(otters))

    assert code == 3
    assert said.splitlines()[0] == "error: 1 pictures cannot be read"
    assert f"c.jpg (cut off: a JPEG of 60 x 40 pixels in {size:,} bytes)" in said
    assert "--skip-corrupt" in said.splitlines()[2]

    code, said, _ = command(*prepare_words(otters), "--skip-corrupt")

    assert code == 0
    assert "1 skipped (see skipped.csv)" in said
    assert "c.jpg,cut off" in (otters / "out" / "skipped.csv").read_text()


def test_missing_pictures_are_named_and_can_be_left_out(command, otters: Path):
    (otters / "images" / "b.jpg").unlink()

    code, _, said = command(*prepare_words(otters))

    assert code == 3
    assert said.splitlines()[0].endswith("pictures are not there")
    assert "otters.json: b.jpg (below" in said
    assert command(*prepare_words(otters), "--skip-missing")[0] == 0

"""Test the command line: exit codes, and three lines for every error."""

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


# Verbs and flags.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "trian",
            "error: unknown verb 'trian'\n  hrnet-ray trian\n  fix: did you mean `hrnet-ray train`?\n",
        ),
        (
            "xyzzy",
            "error: unknown verb 'xyzzy'\n"
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
            "error: missing from hrnet-ray predict: --model; unrecognized options: --modle\n"
            "  hrnet-ray predict\n"
            "  fix: did you mean --model? (see `hrnet-ray predict --help`)\n",
        ),
        (
            "predict",
            "error: missing from hrnet-ray predict: --model, --input\n"
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
            "error: unrecognized or misplaced options: coc, --images, --annotations\n"
            "  hrnet-ray prepare\n"
            "  fix: did you mean coco? (see `hrnet-ray prepare --help`)\n",
        ),
        (
            "train --cluster.worker 2",
            "error: unrecognized options: --cluster.worker\n"
            "  hrnet-ray train\n"
            "  fix: did you mean --cluster.num-workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --num-workers 2",
            "error: unrecognized options: --num-workers\n"
            "  hrnet-ray train\n"
            "  fix: did you mean --cluster.num-workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --evaluation.flip-test False",
            "error: unrecognized options: False\n"
            "  hrnet-ray train\n"
            "  fix: write --flag for yes, --no-flag for no (see `hrnet-ray train --help`)\n",
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
            "error: missing from hrnet-ray check: DATA\n  hrnet-ray check\n  fix: see `hrnet-ray check --help`\n",
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
def test_an_invalid_flag_is_reported_in_three_lines(
    command, monkeypatch: pytest.MonkeyPatch, words: str, message: str, columns: str
):
    monkeypatch.setenv("COLUMNS", columns)  # tyro wraps its lines at the terminal's width

    assert command(*words.split()) == (2, "", message)


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_the_report_does_not_depend_on_the_encoding_of_the_terminal(encoding: str):
    done = subprocess.run(
        [sys.executable, "-m", "hrnet_ray.cli", "predict", "--input", "p", "--strct"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONIOENCODING": encoding},
    )

    assert done.returncode == 2
    assert done.stderr == (
        "error: missing from hrnet-ray predict: --model; unrecognized options: --strct\n"
        "  hrnet-ray predict\n"
        "  fix: see `hrnet-ray predict --help`\n"
    )


def test_an_invalid_setting_is_reported_in_three_lines(command):
    code, _, stderr = command("train", "--data.input-hw", "100", "96")

    assert code == 2
    assert len(stderr.splitlines()) == 3
    assert "data.input_hw" in stderr


@pytest.mark.parametrize("words", [["--help"], ["-h"], []])
def test_help_lists_every_verb(command, words: list[str]):
    code, stdout, stderr = command(*words)

    assert (code, stderr) == (0, "")
    for verb in ("prepare", "check", "train", "tune", "evaluate", "predict", "demo", "doctor"):
        assert f"\n  {verb} " in stdout


def test_a_verbs_help_lists_its_flags(command):
    code, stdout, _ = command("predict", "--help")

    assert code == 0
    for flag in ("--model", "--input", "--out", "--boxes", "--strict"):
        assert flag in stdout


@pytest.fixture(scope="module")
def modules_after_help() -> set[str]:
    """Names of the modules that a process has imported after `hrnet-ray --help`."""
    code = "import sys\nfrom hrnet_ray.cli import main\ntry: main(['--help'])\nexcept SystemExit: print(*sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: hrnet-ray VERB")
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("package", ["ray", "mlflow", "torch", "cv2", "pyarrow", "tyro"])
def test_help_does_not_import_heavy_packages(modules_after_help: set[str], package: str):
    assert package not in modules_after_help


@pytest.mark.parametrize(
    ("kind", "code"),
    [(UsageError, 2), (DataError, 3), (ClusterError, 4), (TrainingDivergedError, 5)],
)
def test_every_class_of_error_has_its_exit_code(capsys: pytest.CaptureFixture[str], kind: type[UsageError], code: int):
    def work() -> None:
        raise kind("what went wrong", "where it was", "what to do")

    assert run_with_error_handling(work) == code
    assert capsys.readouterr().err == ("error: what went wrong\n  where it was\n  fix: what to do\n")


def test_ctrl_c_prints_whether_the_command_can_be_resumed(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise KeyboardInterrupt

    assert run_with_error_handling(work) == 130
    assert run_with_error_handling(work, resumable=False) == 130
    assert capsys.readouterr().err == "Interrupted. Run the same command to resume.\nInterrupted.\n"


def test_an_experiment_script_parses_flags_like_a_verb(
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
        "error: missing from tune_otters: --model, --input\n  tune_otters\n  fix: see `tune_otters --help`\n"
    )


# Files and folders.


@pytest.mark.parametrize(
    ("changed", "code", "message"),
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
            "the file is not there\n  --val-annotations {nothing.json}\n  fix: give an existing file",
        ),
        (
            {"val_annotations": "otters.json", "val_images": "otters.json"},
            3,
            "the folder is a file\n  --val-images {otters.json}\n  fix: give an existing folder",
        ),
        (
            {"val_images": "images"},
            2,
            "--val-images needs --val-annotations\n  --val-images {images}\n  fix: give both flags, or neither",
        ),
        (
            {"out": "otters.json"},
            3,
            "a file where a folder is wanted\n  --out {otters.json}\n  fix: give a folder",
        ),
    ],
)
def test_a_wrong_path_is_refused_with_the_name_of_its_flag(
    command, otters: Path, changed: dict[str, str], code: int, message: str
):
    flags = {flag: otters / name for flag, name in changed.items()}

    exit_code, _, stderr = command(*prepare_words(otters, **flags))

    for name in changed.values():
        message = message.replace(f"{{{name}}}", str(otters / name))
    assert stderr == f"error: {message}\n"
    assert exit_code == code
    assert not (otters / "out" / "manifest.json").exists()


@pytest.mark.parametrize("fraction", [0.0, 1.0, 1.5, -0.5, float("nan")])
def test_a_val_fraction_outside_0_and_1_is_refused(command, otters: Path, fraction: float):
    code, _, stderr = command(*prepare_words(otters, val_fraction=fraction))

    assert code == 2
    assert stderr == (
        f"error: --val-fraction must be between 0 and 1 (exclusive), got {fraction:g}\n"
        "  hrnet-ray prepare\n"
        "  fix: give a fraction such as 0.1\n"
    )


def test_gt_valid_alone_and_an_image_size_of_0_are_refused(command, otters: Path):
    words = ["--images", otters / "images", "--annotations", otters / "otters.json"]
    common = ["prepare", "mpii", *words, "--out", otters / "out"]

    assert command(*common, "--gt-valid", "gt.mat")[::2] == (
        2,
        "error: --gt-valid needs --val-annotations\n  --gt-valid gt.mat\n  fix: give both flags, or neither\n",
    )
    assert command(*common, "--max-image-size", "0")[::2] == (
        2,
        "error: --max-image-size must be at least 1, got 0\n  hrnet-ray prepare\n"
        "  fix: give a size in pixels, such as 416\n",
    )


def test_an_unknown_skeleton_is_refused_with_the_known_names(command, otters: Path):
    code, _, stderr = command(*prepare_words(otters, skeleton="tigger"))

    assert code == 3
    assert stderr == (
        "error: no skeleton 'tigger'\n"
        "  known: mpii, atrw, coco\n"
        "  fix: use one of these, a YAML file (keypoints: [...]), or leave it out to take the "
        "category's\n"
    )


def test_a_truncated_jpeg_is_named_and_can_be_skipped(command, otters: Path):
    size = truncate(otters / "images" / "c.jpg")

    code, _, stderr = command(*prepare_words(otters))

    assert code == 3
    assert stderr.splitlines()[0] == "error: 1 images cannot be read"
    assert f"c.jpg (cut off: a JPEG of 60 x 40 pixels in {size:,} bytes)" in stderr
    assert "--skip-corrupt" in stderr.splitlines()[2]

    code, stdout, _ = command(*prepare_words(otters), "--skip-corrupt")

    assert code == 0
    assert "1 skipped (see skipped.csv)" in stdout
    assert "c.jpg,cut off" in (otters / "out" / "skipped.csv").read_text()


def test_missing_images_are_named_and_can_be_skipped(command, otters: Path):
    (otters / "images" / "b.jpg").unlink()

    code, _, stderr = command(*prepare_words(otters))

    assert code == 3
    assert stderr.splitlines()[0].endswith("images are not there")
    assert "otters.json: b.jpg (below" in stderr
    assert command(*prepare_words(otters), "--skip-missing")[0] == 0

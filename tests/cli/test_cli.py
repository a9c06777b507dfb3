"""The command as a user meets it: exit codes, and three lines for every mistake."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from hrnet_ray.cli import guarded, main, start
from hrnet_ray.cli.predict import Args as PredictArgs
from hrnet_ray.data import pictures
from hrnet_ray.errors import ClusterError, DataError, DivergedError, UsageError
from hrnet_ray.inference.model_folder import ModelSpec, save_model
from hrnet_ray.inference.predictor import Predictor
from hrnet_ray.skeletons import Skeleton, from_coco_category
from tests.data.hostile import with_orientation

PAWS = Skeleton(
    name="otter",
    keypoints=("left_paw", "right_paw", "nose"),
    bones=(("left_paw", "nose"), ("nose", "right_paw")),
)
NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Run `hrnet-ray ARGV` in this process: exit code, what it printed, what it complained of."""

    def run(*argv: object) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in argv])
        said = capsys.readouterr()
        return end.value.code, said.out, said.err

    return run


@pytest.fixture
def otters(tmp_path: Path) -> Path:
    """Four pictures of 60 x 40 pixels with an otter each, and their COCO file."""
    for at, name in enumerate(NAMES):
        noise = np.random.default_rng(at).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        pictures.write(tmp_path / "images" / name, noise)
    document = {
        "images": [{"id": at, "file_name": name} for at, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": at,
                "image_id": at,
                "category_id": 1,
                "bbox": [5, 5, 40, 30],
                "keypoints": [10, 10, 2, 30, 20, 2, 40, 30, 1],
            }
            for at in range(len(NAMES))
        ],
        "categories": [{"id": 1, "name": "otter", "keypoints": list(PAWS.keypoints)}],
    }
    (tmp_path / "otters.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model folder with random weights."""
    spec = ModelSpec(
        skeleton=PAWS,
        width=8,
        modules=(1, 1, 1),
        blocks=1,
        stem=8,
        input_hw=(64, 32),
        padding=1.25,
        sigma=2.0,
        decode="quarter",
        flip_test=True,
        shift_heatmap=True,
    )
    torch.manual_seed(0)
    net = spec.build()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    save_model(tmp_path / "model", net, spec)
    return tmp_path / "model"


def prepare_words(otters: Path, **changed: object) -> list[object]:
    flags = {
        "--images": otters / "images",
        "--annotations": otters / "otters.json",
        "--out": otters / "out",
        "--val-share": 0.5,
    }
    flags |= {f"--{name.replace('_', '-')}": value for name, value in changed.items()}
    return ["prepare", "coco", *(word for flag in flags.items() for word in flag)]


def truncate(path: Path) -> int:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    return len(data) // 2


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
            "predict --model m --pictures p --strct",
            "error: unrecognized options: --strct\n"
            "  hrnet-ray predict\n"
            "  fix: did you mean --strict? (see `hrnet-ray predict --help`)\n",
        ),
        (
            "predict --modle m --pictures p",
            "error: unrecognized options: --modle; missing: --model\n"
            "  hrnet-ray predict\n"
            "  fix: did you mean --model? (see `hrnet-ray predict --help`)\n",
        ),
        (
            "predict",
            "error: missing: --model, --pictures\n"
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
            "  fix: did you mean --cluster.workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --workers 2",
            "error: unrecognized options: --workers\n"
            "  hrnet-ray train\n"
            "  fix: did you mean --cluster.workers? (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --evaluation.flip-test False",
            "error: unrecognized options: False\n"
            "  hrnet-ray train\n"
            "  fix: yes is --flag, no is --no-flag (see `hrnet-ray train --help`)\n",
        ),
        (
            "train --optim.algorithm adan",
            "error: invalid choice 'adan' for argument '--optim.algorithm'. "
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
        [sys.executable, "-m", "hrnet_ray.cli", "predict", "--pictures", "p", "--strct"],
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
    for flag in ("--model", "--pictures", "--out", "--boxes", "--strict"):
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
    ("kind", "code"), [(UsageError, 2), (DataError, 3), (ClusterError, 4), (DivergedError, 5)]
)
def test_every_kind_of_error_has_its_exit_code(
    capsys: pytest.CaptureFixture[str], kind: type[UsageError], code: int
):
    def work() -> None:
        raise kind("what went wrong", "where it was", "what to do")

    assert guarded(work) == code
    assert capsys.readouterr().err == (
        "error: what went wrong\n  where it was\n  fix: what to do\n"
    )


def test_ctrl_c_ends_with_a_sentence_that_is_true(capsys: pytest.CaptureFixture[str]):
    def work() -> None:
        raise KeyboardInterrupt

    assert guarded(work) == 130
    assert guarded(work, goes_on=False) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\nstopped\n"


def test_an_experiments_script_starts_like_a_verb(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["tune_otters.py", "--model", "m", "--pictures", "p"])
    with pytest.raises(SystemExit) as end:
        start(PredictArgs, lambda args: 7 if args.model == "m" else 0, name="tune_otters")
    assert end.value.code == 7

    monkeypatch.setattr(sys, "argv", ["tune_otters.py"])
    with pytest.raises(SystemExit) as end:
        start(PredictArgs, lambda args: 7, name="tune_otters")

    assert end.value.code == 2
    assert capsys.readouterr().err == (
        "error: missing: --model, --pictures\n  tune_otters\n  fix: see `tune_otters --help`\n"
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
    code, _, said = command(*prepare_words(otters, val_share=share))

    assert code == 2
    assert said == (
        "error: a share that leaves nothing to learn or nothing to score\n"
        f"  --val-share {share}\n"
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
    assert command(*common, "--canvas", "0")[::2] == (
        2,
        "error: a canvas without pixels\n  --canvas 0\n  fix: such as 416\n",
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
    assert "--skip-broken" in said.splitlines()[2]

    code, said, _ = command(*prepare_words(otters), "--skip-broken")

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


# Prediction.


def predict_words(otters: Path, model: Path, *more: object) -> list[object]:
    words = ["predict", "--model", model, "--pictures", otters / "images"]
    return [*words, "--out", otters / "out", *more]


def results_of(otters: Path) -> list[dict]:
    return json.loads((otters / "out" / "predictions.coco.json").read_text())


def test_predict_gives_what_the_predictor_gives_and_draws_it(command, otters: Path, model: Path):
    code, said, _ = command(*predict_words(otters, model))

    assert code == 0
    assert said == f"4 poses on 4 pictures -> {otters / 'out'}\n"
    results = results_of(otters)
    assert [result["image_id"] for result in results] == list(NAMES)
    assert [result["id"] for result in results] == [1, 2, 3, 4]
    picture = pictures.read(otters / "images" / "b.jpg")
    found = Predictor.from_folder(model)(picture, np.array([[0.0, 0.0, 59.0, 39.0]]))
    points = torch.cat([found.image_xy[0], found.scores[0, :, None]], dim=-1)
    assert results[1]["keypoints"] == pytest.approx(points.flatten().tolist(), abs=2e-3)
    drawing = pictures.read(otters / "out" / "b.jpg")
    assert drawing.shape == (40, 60, 3)
    assert np.abs(drawing.astype(int) - picture).max() > 60


def test_a_broken_picture_is_named_and_the_others_are_predicted(command, otters: Path, model: Path):
    truncate(otters / "images" / "b.jpg")

    code, said, _ = command(*predict_words(otters, model))

    assert code == 0
    assert said == (
        "skipped b.jpg: a picture that cannot be read: cut off\n"
        f"3 poses on 3 pictures -> {otters / 'out'}\n"
        "1 pictures could not be read\n"
    )
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "c.jpg", "d.jpg"]
    assert command(*predict_words(otters, model, "--strict"))[0] == 3
    assert len(results_of(otters)) == 3  # strict is about the exit code


def test_nothing_but_broken_pictures_is_a_failure(command, otters: Path, model: Path):
    truncate(otters / "images" / "b.jpg")
    words = ["predict", "--model", model, "--pictures", otters / "images" / "b.jpg"]

    assert command(*words, "--out", otters / "out")[0] == 3


def test_boxes_say_who_is_looked_at_and_a_picture_without_any_is_told(
    command, otters: Path, model: Path
):
    (otters / "boxes.json").write_text('{"a.jpg": [[1, 2, 30, 20], [9, 5, 20, 30]], "b.jpg": []}')

    code, said, _ = command(*predict_words(otters, model, "--boxes", otters / "boxes.json"))

    assert code == 0
    assert said == (
        f"2 poses on 4 pictures -> {otters / 'out'}\n"
        f"3 pictures have no boxes in {otters / 'boxes.json'}\n"
    )
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "a.jpg"]


def test_a_poses_score_counts_that_of_its_box_and_boxes_without_area_are_told(
    command, otters: Path, model: Path
):
    box = {"category_id": 1, "bbox": [1, 2, 30, 20]}
    detections = [
        {"image_id": "a.jpg", "score": 1.0, **box},
        {"image_id": "a", "score": 0.25, **box},
        {"image_id": "b.jpg", "score": 0.9, **box, "bbox": [1, 2, 0, 20]},
    ]
    (otters / "boxes.json").write_text(json.dumps(detections[::2]))
    words = predict_words(otters, model, "--boxes", otters / "boxes.json")

    assert command(*words)[:2] == (
        0,
        f"1 poses on 4 pictures -> {otters / 'out'}\n"
        f"3 pictures have no boxes in {otters / 'boxes.json'}\n"
        "1 boxes have no area, and were left out\n",
    )
    sure = results_of(otters)[0]
    (otters / "boxes.json").write_text(json.dumps(detections[1:]))
    assert command(*words)[0] == 0
    doubtful = results_of(otters)[0]
    assert doubtful["keypoints"] == sure["keypoints"]
    assert doubtful["score"] == sure["score"] / 4 > 0


def test_boxes_for_none_of_the_pictures_are_a_failure(command, otters: Path, model: Path):
    (otters / "boxes.json").write_text('{"otter.jpg": [[1, 2, 30, 20]]}')

    code, _, said = command(*predict_words(otters, model, "--boxes", otters / "boxes.json"))

    assert code == 3
    assert said.startswith("error: boxes for none of the pictures\n")
    assert not (otters / "out").exists()


def test_what_was_found_stays_when_a_drawing_cannot_be_written(command, otters: Path, model: Path):
    (otters / "out" / "c.jpg").mkdir(parents=True)  # where the third drawing is to be

    code, said, complained = command(*predict_words(otters, model))

    assert code == 3
    assert complained.startswith("error: a picture that cannot be written\n")
    assert said == f"3 poses on 3 pictures -> {otters / 'out'}\n"
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "b.jpg", "c.jpg"]
    assert not [path for path in (otters / "out").iterdir() if "part" in path.name]


def test_ctrl_c_leaves_the_poses_that_were_found(otters: Path, model: Path):
    (otters / "images" / "c.jpg").unlink()
    os.mkfifo(otters / "images" / "c.jpg")  # who opens it waits for a writer
    words = [str(word) for word in predict_words(otters, model, "--device", "cpu")]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "hrnet_ray.cli", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as predicting,
        (otters / "images" / "c.jpg").open("wb"),
    ):  # it has come so far
        predicting.send_signal(signal.SIGINT)
        said, complained = predicting.communicate(timeout=30)

    assert (predicting.returncode, said) == (130, f"2 poses on 2 pictures -> {otters / 'out'}\n")
    assert complained.startswith("stopped")
    assert [result["image_id"] for result in results_of(otters)] == ["a.jpg", "b.jpg"]


def test_folders_below_are_looked_into_and_keep_their_names(command, otters: Path, model: Path):
    images, out = otters / "images", otters / "images" / "poses"
    (images / "day 2").mkdir()
    (images / "c.jpg").rename(images / "day 2" / "a.jpg")
    words = ["predict", "--model", model, "--pictures", images, "--out", out]

    for _ in range(2):  # the drawings of the first time are no pictures of the second
        assert command(*words)[:2] == (0, f"4 poses on 4 pictures -> {out}\n")

    results = json.loads((out / "predictions.coco.json").read_text())
    names = ["a.jpg", "b.jpg", "d.jpg", "day 2/a.jpg"]
    assert [result["image_id"] for result in results] == names
    assert sorted(str(path.relative_to(out)) for path in out.rglob("*.jpg")) == names


def test_predict_never_draws_over_pictures_in_a_folder_below(command, otters: Path, model: Path):
    images = otters / "images"
    (images / "day 2").mkdir()
    (images / "c.jpg").rename(images / "day 2" / "a.jpg")

    words = ["predict", "--model", model, "--pictures", images, "--out", images / "day 2"]
    code, _, said = command(*words)

    assert code == 2
    assert said.startswith("error: the drawings would be written over the pictures\n")


def test_pictures_that_ask_to_be_shown_turned_are_counted_and_named(
    command, otters: Path, model: Path
):
    path = otters / "images" / "b.jpg"
    path.write_bytes(with_orientation(path.read_bytes()))

    code, said, _ = command(*predict_words(otters, model))

    assert code == 0
    assert said == (
        f"4 poses on 4 pictures -> {otters / 'out'}\n"
        "1 pictures ask to be shown turned (EXIF), and are read as stored: b.jpg\n"
    )


def test_without_drawings_the_poses_and_the_names_of_their_keypoints_are_written(
    command, otters: Path, model: Path
):
    assert command(*predict_words(otters, model, "--no-draw"))[0] == 0

    written = sorted(path.name for path in (otters / "out").iterdir())
    assert written == ["keypoints.json", "predictions.coco.json"]
    category = json.loads((otters / "out" / "keypoints.json").read_text())["categories"][0]
    assert from_coco_category(category) == PAWS
    assert {result["category_id"] for result in results_of(otters)} == {category["id"]}


def test_names_that_move_a_cursor_or_are_no_utf8_are_spelt_out(command, otters: Path, model: Path):
    images = otters / "images"
    (images / "a.jpg").rename(images / os.fsdecode(b"caf\xe9.jpg"))
    (images / "b.jpg").rename(images / "b\x1b[2J.jpg")
    truncate(images / "b\x1b[2J.jpg")

    code, said, _ = command(*predict_words(otters, model))

    assert code == 0
    assert said.startswith("skipped b\\x1b[2J.jpg: a picture that cannot be read: cut off\n")
    assert b"caf\xe9.jpg" in os.listdir(os.fsencode(otters / "out"))
    assert results_of(otters)[1]["image_id"] == os.fsdecode(b"caf\xe9.jpg")


def test_pictures_of_one_stem_get_a_drawing_each(command, otters: Path, model: Path):
    grey = np.full((30, 20, 3), 90, np.uint8)
    pictures.write(otters / "images" / "a.png", grey)
    pictures.write(otters / "images" / "e.png", grey)
    pictures.write(otters / "images" / "a.jpg.png", grey)

    assert command(*predict_words(otters, model))[0] == 0

    drawn = sorted(path.name for path in (otters / "out").glob("*.jpg"))
    of_one_stem = ["a.jpg.jpg", "a.jpg.png.jpg", "a.png.jpg"]
    assert drawn == [*of_one_stem, "b.jpg", "c.jpg", "d.jpg", "e.jpg"]


def test_predict_never_draws_over_the_pictures(command, otters: Path, model: Path):
    before = (otters / "images" / "a.jpg").read_bytes()
    words = predict_words(otters, model, "--out", otters / "images")
    words[words.index("--out") : words.index("--out") + 2] = []

    code, _, said = command(*words)

    assert code == 2
    assert said == (
        "error: the drawings would be written over the pictures\n"
        f"  --out {otters / 'images'}\n"
        "  fix: give another folder\n"
    )
    assert (otters / "images" / "a.jpg").read_bytes() == before


def test_a_folder_without_pictures_or_model_is_refused(command, otters: Path, model: Path):
    (otters / "empty").mkdir()
    words = ["predict", "--out", otters / "out", "--pictures"]

    assert command(*words, otters / "empty", "--model", model)[::2] == (
        3,
        "error: a folder without pictures\n"
        f"  --pictures {otters / 'empty'}\n"
        "  fix: give another one\n",
    )
    assert command(*words, otters / "nowhere", "--model", model)[::2] == (
        3,
        "error: the file is not there\n"
        f"  --pictures {otters / 'nowhere'}\n"
        "  fix: give an existing file\n",
    )
    code, _, said = command(*words, otters / "images", "--model", otters / "empty")
    assert code == 3
    assert said.startswith(f"error: no model there\n  --model {otters / 'empty'}\n")

"""Model folders: saving, loading and refused files."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hrnet_ray.errors import DataError
from hrnet_ray.inference.model_package import (
    CONFIG_FILE,
    MODEL_CARD_FILE,
    WEIGHTS_FILE,
    load_model,
    save_model,
)
from hrnet_ray.skeletons import Skeleton
from tests.small_models import make_spec

PAWS = Skeleton(
    name="otter",
    keypoints=("left_paw", "right_paw", "nose"),
    bones=(("left_paw", "nose"),),
    oks_sigmas=(0.05, 0.05, 0.025),
    other_oks_sigmas={"strict": (0.01, 0.01, 0.01)},
    upper_body=(2,),
)
SPEC = make_spec(
    PAWS,
    input_hw=(96, 64),
    sigma=1.5,
    decode="dark",
    shift_heatmap=False,
    trained_on="otters (0123456789ab)",
    scores={"OKS_AP": 0.87654, "EPE_px": 3.0},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Folder with a model of random weights."""
    torch.manual_seed(4)
    save_model(tmp_path / "model", SPEC.build_model(), SPEC)
    return tmp_path / "model"


def load_refused(folder: Path) -> DataError:
    with pytest.raises(DataError) as refused:
        load_model(folder)
    return refused.value


def test_a_saved_model_loads_unchanged(folder: Path):
    torch.manual_seed(4)
    saved = SPEC.build_model().state_dict()

    model, spec = load_model(folder)

    assert spec == SPEC
    assert not model.training
    loaded = model.state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in loaded.items())


def test_a_channels_last_model_is_saved_with_the_same_weights(folder: Path, tmp_path: Path):
    model, spec = load_model(folder)
    assert model.conv1.weight.is_contiguous(memory_format=torch.channels_last)

    save_model(tmp_path / "again", model, spec)

    for name in (WEIGHTS_FILE, CONFIG_FILE, MODEL_CARD_FILE):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_saving_again_replaces_the_three_files(folder: Path):
    torch.manual_seed(5)
    better = replace(SPEC, scores={"OKS_AP": 0.9})

    save_model(folder, better.build_model(), better)

    assert sorted(path.name for path in folder.iterdir()) == [
        MODEL_CARD_FILE,
        CONFIG_FILE,
        WEIGHTS_FILE,
    ]
    assert load_model(folder)[1] == better


def test_the_model_card_lists_scores_keypoints_crop_size_and_dataset(folder: Path):
    card = (folder / MODEL_CARD_FILE).read_text()

    assert card.startswith("# HRNet-W8 for otter\n\n3 keypoints from crops of 64 x 96 pixels.\n")
    assert "| OKS_AP | 0.8765 |\n| EPE_px | 3.0000 |\n" in card
    assert "Trained on otters (0123456789ab)." in card
    assert "Keypoints, in order: left_paw, right_paw, nose." in card


def test_weights_with_another_checksum_are_refused(folder: Path):
    data = bytearray((folder / WEIGHTS_FILE).read_bytes())
    data[-1] ^= 1
    (folder / WEIGHTS_FILE).write_bytes(data)

    assert str(load_refused(folder)) == (
        "a model that cannot be loaded\n"
        f"  {folder}: model.safetensors is not the file that config.json was written for\n"
        "  fix: give a folder with config.json and model.safetensors, "
        "such as runs/<data set>/<run>/model"
    )


@pytest.mark.parametrize("gone", [WEIGHTS_FILE, CONFIG_FILE])
def test_a_missing_file_is_refused_by_name(folder: Path, gone: str):
    (folder / gone).unlink()

    assert load_refused(folder).where == (f"{folder}: [Errno 2] No such file or directory: '{folder / gone}'")


@pytest.mark.parametrize("config", ["", "[]", "null", '{"sha256": 3}', "{"])
def test_a_malformed_config_is_refused(folder: Path, config: str):
    (folder / CONFIG_FILE).write_text(config)

    assert load_refused(folder).what == "a model that cannot be loaded"


@pytest.mark.parametrize("changed", [{"width": 16}, {"skeleton": "otter"}, {"blocks": "many"}])
def test_a_config_that_does_not_match_its_weights_is_refused(folder: Path, changed: dict):
    config = json.loads((folder / CONFIG_FILE).read_text())
    (folder / CONFIG_FILE).write_text(json.dumps(config | changed))

    assert load_refused(folder).exit_code == 3


def test_a_missing_config_entry_is_refused_by_name(folder: Path):
    config = json.loads((folder / CONFIG_FILE).read_text())
    del config["sha256"]
    (folder / CONFIG_FILE).write_text(json.dumps(config))

    assert load_refused(folder).where == f"{folder}: no entry 'sha256'"


def test_a_full_disk_keeps_the_previous_model(folder: Path, monkeypatch: pytest.MonkeyPatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name.startswith(CONFIG_FILE):
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", full)
    better = replace(SPEC, scores={"OKS_AP": 0.9})

    with pytest.raises(OSError, match="No space left"):
        save_model(folder, better.build_model(), better)

    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before

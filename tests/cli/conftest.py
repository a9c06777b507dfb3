"""Fixtures: the command, images of otters, and a model for them."""

import json
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.cli import main
from hrnet_ray.data.images import codec
from hrnet_ray.inference.model_package import save_model
from tests.cli.otters import NAMES, PAWS
from tests.small_models import make_random_model, make_spec


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]):
    """Run `hrnet-ray ARGV` in this process; return exit code, stdout and stderr."""

    def run(*argv: object) -> tuple[int | str | None, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(word) for word in argv])
        captured = capsys.readouterr()
        return end.value.code, captured.out, captured.err

    return run


@pytest.fixture
def otters(tmp_path: Path) -> Path:
    """Write four images of 60 x 40 pixels with an otter each, and their COCO file."""
    for index, name in enumerate(NAMES):
        noise = np.random.default_rng(index).integers(0, 255, (40, 60, 3)).astype(np.uint8)
        codec.write_image(tmp_path / "images" / name, noise)
    document = {
        "images": [{"id": index, "file_name": name} for index, name in enumerate(NAMES)],
        "annotations": [
            {
                "id": index,
                "image_id": index,
                "category_id": 1,
                "bbox": [5, 5, 40, 30],
                "keypoints": [10, 10, 2, 30, 20, 2, 40, 30, 1],
            }
            for index in range(len(NAMES))
        ],
        "categories": [{"id": 1, "name": "otter", "keypoints": list(PAWS.keypoints)}],
    }
    (tmp_path / "otters.json").write_text(json.dumps(document))
    return tmp_path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Write a model folder with random weights."""
    spec = make_spec(PAWS, input_hw=(64, 32), sigma=2.0)
    save_model(tmp_path / "model", make_random_model(spec), spec)
    return tmp_path / "model"

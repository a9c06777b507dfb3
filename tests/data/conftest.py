from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data import pictures


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven pictures, 0.png to 6.png, each of another grey."""
    for id in range(7):
        pictures.write(tmp_path / "images" / f"{id}.png", np.full((24, 36, 3), 20 * id, np.uint8))
    return tmp_path / "images"

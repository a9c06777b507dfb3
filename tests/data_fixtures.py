from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hrnet_ray.data.images import codec
from tests.s3 import new_bucket, served, uri


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Seven images, 0.png to 6.png, each of another grey."""
    for id in range(7):
        codec.write_image(tmp_path / "images" / f"{id}.png", np.full((24, 36, 3), 20 * id, np.uint8))
    return tmp_path / "images"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Address of a server that speaks S3."""
    with served() as address:
        yield address


@pytest.fixture
def bucket(s3: str) -> Callable[[str], str]:
    """A new bucket; call it with a path to get the URI."""
    name = new_bucket(s3)
    return lambda path: uri(name, path, s3)

from pathlib import Path

import pytest

from hrnet_ray.doctor.local_ray import check_local_ray


def test_a_ray_that_cannot_be_imported_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ray.py").write_text("raise ImportError('_raylet.so: undefined symbol')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found = check_local_ray(start=False)

    assert found.state == "wrong"
    assert found.detail == "import ray: ImportError: _raylet.so: undefined symbol"
    assert found.fix.startswith("pip install --force-reinstall")


@pytest.mark.ray
def test_a_local_ray_that_does_not_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))  # where no folder can be made

    found = check_local_ray(start=True)

    assert found.state == "wrong"
    assert " does not start: NotADirectoryError: " in found.detail
    assert found.fix.startswith("df -h /tmp /dev/shm")

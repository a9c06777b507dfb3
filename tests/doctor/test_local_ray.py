from pathlib import Path

import pytest

from hrnet_ray.doctor.local_ray import check_local_ray


def test_a_failing_import_of_ray_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ray.py").write_text("raise ImportError('_raylet.so: undefined symbol')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    result = check_local_ray(start=False)

    assert result.state == "wrong"
    assert result.detail == "import ray: ImportError: _raylet.so: undefined symbol"
    assert result.fix.startswith("pip install --force-reinstall")


@pytest.mark.ray
def test_a_failing_start_of_ray_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "file"))  # no folder can be created there

    result = check_local_ray(start=True)

    assert result.state == "wrong"
    assert " does not start: [Errno 20] Not a directory: " in result.detail
    assert result.fix.startswith("df -h /tmp /dev/shm")

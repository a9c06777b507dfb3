from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hrnet_ray.doctor import packages
from hrnet_ray.doctor.result import CheckResult


def test_what_is_installed_here_is_in_the_tested_ranges():
    found = packages.check_packages()

    assert found.state == "ok"
    assert f"torch {metadata.version('torch')}" in found.detail


def test_packages_outside_their_range_or_missing_are_named_with_one_command():
    wanted = [
        Requirement("packaging>=9999"),
        Requirement("no-such-package>=1"),
        Requirement("psutil"),
    ]

    found = packages.check_packages(wanted)

    version = metadata.version("packaging")
    assert found == CheckResult(
        "wrong",
        f"packaging {version}, tested with >=9999; no-such-package is not installed",
        "pip install 'packaging>=9999' 'no-such-package>=1'",
    )


def test_another_python_than_tested_is_wrong():
    assert packages.check_python_version().state == "ok"
    assert packages.check_python_version(SpecifierSet("<3")).state == "wrong"


def test_two_opencv_wheels_are_a_conflict():
    found = packages.check_opencv_wheels(["opencv-python", "opencv-contrib-python"])

    assert found == CheckResult(
        "wrong",
        "they share one folder: opencv-python, opencv-contrib-python",
        "pip uninstall -y opencv-python opencv-contrib-python && pip install opencv-python",
    )
    assert packages.check_opencv_wheels(["opencv-python"]).state == "ok"
    assert packages.check_opencv_wheels([]).fix == "pip install opencv-python"


def test_opencv_imports_here():
    assert packages.check_opencv_import().state == "ok"


@pytest.mark.parametrize(
    ("library", "said", "fix"),
    [
        ("libGL.so.77", "libGL.so.77: cannot open shared object file", "libgl1 libglib2.0-0"),
        ("", "OSError: broken", "pip install opencv-python"),
    ],
)
def test_a_library_that_opencv_misses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, said: str, fix: str
):
    load = f"ctypes.CDLL({library!r})" if library else "raise OSError('broken')"
    (tmp_path / "cv2.py").write_text(f"import ctypes\n{load}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    found = packages.check_opencv_import()

    assert found.state == "wrong"
    assert said in found.detail
    assert found.fix.endswith(fix)

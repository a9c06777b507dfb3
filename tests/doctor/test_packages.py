from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hrnet_ray.doctor import packages
from hrnet_ray.doctor.result import CheckResult


def test_the_installed_packages_are_in_their_tested_ranges():
    result = packages.check_packages()

    assert result.state == "ok"
    assert f"torch {metadata.version('torch')}" in result.detail


def test_untested_and_missing_packages_are_reported_with_one_command():
    requirements = [
        Requirement("packaging>=9999"),
        Requirement("no-such-package>=1"),
        Requirement("psutil"),
    ]

    result = packages.check_packages(requirements)

    version = metadata.version("packaging")
    assert result == CheckResult(
        "wrong",
        f"packaging {version}, tested with >=9999; no-such-package is not installed",
        "pip install 'packaging>=9999' 'no-such-package>=1'",
    )


def test_an_untested_python_is_wrong():
    assert packages.check_python_version().state == "ok"
    assert packages.check_python_version(SpecifierSet("<3")).state == "wrong"


def test_two_opencv_wheels_are_a_conflict():
    result = packages.check_opencv_wheels(["opencv-python", "opencv-contrib-python"])

    assert result == CheckResult(
        "wrong",
        "several wheels in the same folder: opencv-python, opencv-contrib-python",
        "pip uninstall -y opencv-python opencv-contrib-python && pip install opencv-python",
    )
    assert packages.check_opencv_wheels(["opencv-python"]).state == "ok"
    assert packages.check_opencv_wheels([]).fix == "pip install opencv-python"


def test_opencv_can_be_imported():
    assert packages.check_opencv_import().state == "ok"


@pytest.mark.parametrize(
    ("library", "message", "fix"),
    [
        ("libGL.so.77", "libGL.so.77: cannot open shared object file", "libgl1 libglib2.0-0"),
        ("", "OSError: broken", "pip install opencv-python"),
    ],
)
def test_a_library_that_opencv_needs_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, message: str, fix: str
):
    load = f"ctypes.CDLL({library!r})" if library else "raise OSError('broken')"
    (tmp_path / "cv2.py").write_text(f"import ctypes\n{load}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    result = packages.check_opencv_import()

    assert result.state == "wrong"
    assert message in result.detail
    assert result.fix.endswith(fix)

"""What is installed: versions against the tested ranges, OpenCV's wheels and their library."""

import platform
import shlex
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hrnet_ray.doctor.result import CheckResult, get_last_line, run_python

PACKAGE_NAME = "hrnet-ray"
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
REPORTED_PACKAGES = ("torch", "ray", "mlflow", "opencv-python", "numpy", "pyarrow")
"""Said with their version; the others are only counted."""
IMPORT_TIMEOUT_S = 30.0


def check_python_version(supported: SpecifierSet | None = None) -> CheckResult:
    """This interpreter against `requires-python`."""
    if supported is None:
        supported = SpecifierSet(metadata.metadata(PACKAGE_NAME)["Requires-Python"] or "")
    version = platform.python_version()
    if supported.contains(version, prereleases=True):
        return CheckResult("ok", f"{version}, tested with {supported}")
    fix = "python3.12 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."
    return CheckResult("wrong", f"{version}, tested with {supported}", fix)


def check_packages(required: list[Requirement] | None = None) -> CheckResult:
    """Installed versions against the ranges that hrnet-ray itself asks for."""
    required = list_requirements() if required is None else required
    bad = {want: fault for want in required if (fault := find_requirement_problem(want))}
    if bad:
        # The ranges, not the names alone: pip takes what fits, and leaves the rest as it is.
        fix = f"pip install {' '.join(shlex.quote(str(want)) for want in bad)}"
        return CheckResult("wrong", "; ".join(bad.values()), fix)
    named = [
        f"{want.name} {get_installed_version(want)}"
        for want in required
        if want.name in REPORTED_PACKAGES
    ]
    return CheckResult("ok", f"{len(required)} in their tested ranges: {', '.join(named)}")


def list_requirements() -> list[Requirement]:
    """What hrnet-ray asks for on this machine, without its extras."""
    wanted = [Requirement(line) for line in metadata.requires(PACKAGE_NAME) or ()]
    return [want for want in wanted if not want.marker or want.marker.evaluate({"extra": ""})]


def find_requirement_problem(requirement: Requirement) -> str | None:
    """What is wrong with an installed package; None where it fits."""
    version = get_installed_version(requirement)
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version}, tested with {requirement.specifier}"


def get_installed_version(requirement: Requirement) -> str | None:
    """The installed version. Any OpenCV wheel will do for `opencv-python`."""
    names = OPENCV_WHEELS if requirement.name in OPENCV_WHEELS else (requirement.name,)
    return next((version for name in names if (version := _get_distribution_version(name))), None)


def _get_distribution_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_opencv_wheels(installed: list[str] | None = None) -> CheckResult:
    """Exactly one: they write into one folder, where the last wins, with parts of the others."""
    if installed is None:
        installed = [name for name in OPENCV_WHEELS if _get_distribution_version(name)]
    if len(installed) == 1:
        return CheckResult("ok", f"{installed[0]} alone")
    if not installed:
        return CheckResult("wrong", "none is installed", "pip install opencv-python")
    fix = f"pip uninstall -y {' '.join(installed)} && pip install {installed[0]}"
    return CheckResult("wrong", f"they share one folder: {', '.join(installed)}", fix)


def check_opencv_import() -> CheckResult:
    """OpenCV's ordinary wheel needs libGL and GLib, which small containers lack."""
    done = run_python("-c", "import cv2; print(cv2.__version__)", timeout_s=IMPORT_TIMEOUT_S)
    if done.returncode == 0:
        return CheckResult("ok", f"OpenCV {get_last_line(done.stdout)} finds it, or needs none")
    said = get_last_line(done.stderr) or f"import cv2 ends with {done.returncode}"
    fix = "sudo apt-get update && sudo apt-get install -y libgl1 libglib2.0-0"
    return CheckResult("wrong", said, fix if ".so" in said else "pip install opencv-python")

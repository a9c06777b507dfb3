"""Checks of installed versions, OpenCV wheels, and the libraries that OpenCV needs."""

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
"""Packages whose version is reported; the others are only counted."""
IMPORT_TIMEOUT_S = 30.0
"""Seconds to import OpenCV, on a slow disk."""


def check_python_version(supported: SpecifierSet | None = None) -> CheckResult:
    """Check the Python version against `requires-python`."""
    if supported is None:
        supported = SpecifierSet(metadata.metadata(PACKAGE_NAME)["Requires-Python"] or "")
    version = platform.python_version()
    if supported.contains(version, prereleases=True):
        return CheckResult("ok", f"{version}, tested with {supported}")
    fix = "python3.12 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."
    return CheckResult("wrong", f"{version}, tested with {supported}", fix)


def check_packages(required: list[Requirement] | None = None) -> CheckResult:
    """Check the installed versions against the ranges that hrnet-ray requires."""
    required = list_requirements() if required is None else required
    problems = {r: problem for r in required if (problem := find_requirement_problem(r))}
    if problems:
        # With ranges, pip installs a version that fits and keeps the other packages.
        fix = f"pip install {' '.join(shlex.quote(str(r)) for r in problems)}"
        return CheckResult("wrong", "; ".join(problems.values()), fix)
    reported = [f"{r.name} {get_installed_version(r)}" for r in required if r.name in REPORTED_PACKAGES]
    return CheckResult("ok", f"{len(required)} in their tested ranges: {', '.join(reported)}")


def list_requirements() -> list[Requirement]:
    """List the requirements of hrnet-ray on this machine, without extras."""
    requirements = [Requirement(line) for line in metadata.requires(PACKAGE_NAME) or ()]
    return [r for r in requirements if not r.marker or r.marker.evaluate({"extra": ""})]


def find_requirement_problem(requirement: Requirement) -> str | None:
    """Describe a missing package or an untested version; None if it fits."""
    version = get_installed_version(requirement)
    if version is None:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return None
    return f"{requirement.name} {version}, tested with {requirement.specifier}"


def get_installed_version(requirement: Requirement) -> str | None:
    """Return the installed version; any OpenCV wheel satisfies `opencv-python`."""
    names = OPENCV_WHEELS if requirement.name in OPENCV_WHEELS else (requirement.name,)
    return next((version for name in names if (version := _get_distribution_version(name))), None)


def _get_distribution_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def check_opencv_wheels(installed: list[str] | None = None) -> CheckResult:
    """Check for exactly one OpenCV wheel: several overwrite each other in the same folder."""
    if installed is None:
        installed = [name for name in OPENCV_WHEELS if _get_distribution_version(name)]
    if len(installed) == 1:
        return CheckResult("ok", f"{installed[0]} only")
    if not installed:
        return CheckResult("wrong", "no OpenCV wheel is installed", "pip install opencv-python")
    fix = f"pip uninstall -y {' '.join(installed)} && pip install {installed[0]}"
    return CheckResult("wrong", f"several wheels in the same folder: {', '.join(installed)}", fix)


def check_opencv_import() -> CheckResult:
    """Check that OpenCV can be imported: it needs libGL and GLib, which small containers lack."""
    done = run_python("-c", "import cv2; print(cv2.__version__)", timeout_s=IMPORT_TIMEOUT_S)
    if done.returncode == 0:
        return CheckResult("ok", f"OpenCV {get_last_line(done.stdout)} can be imported")
    message = get_last_line(done.stderr) or f"import cv2 ends with {done.returncode}"
    fix = "sudo apt-get update && sudo apt-get install -y libgl1 libglib2.0-0"
    return CheckResult("wrong", message, fix if ".so" in message else "pip install opencv-python")

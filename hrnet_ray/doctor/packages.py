"""What is installed: versions against the tested ranges, OpenCV's wheels and their library."""

import platform
import shlex
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from hrnet_ray.doctor.result import Finding, last_line, python

PACKAGE = "hrnet-ray"
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
NAMED = ("torch", "ray", "mlflow", "opencv-python", "numpy", "pyarrow")
"""Said with their version; the others are only counted."""
IMPORT_S = 30.0


def python_version(wanted: SpecifierSet | None = None) -> Finding:
    """This interpreter against `requires-python`."""
    if wanted is None:
        wanted = SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"] or "")
    version = platform.python_version()
    if wanted.contains(version, prereleases=True):
        return Finding("ok", f"{version}, tested with {wanted}")
    fix = "python3.12 -m venv .venv && .venv/bin/pip install -c constraints.txt -e ."
    return Finding("wrong", f"{version}, tested with {wanted}", fix)


def packages(wanted: list[Requirement] | None = None) -> Finding:
    """Installed versions against the ranges that hrnet-ray itself asks for."""
    wanted = requirements() if wanted is None else wanted
    bad = {want: fault for want in wanted if (fault := fault_of(want))}
    if bad:
        # The ranges, not the names alone: pip takes what fits, and leaves the rest as it is.
        fix = f"pip install {' '.join(shlex.quote(str(want)) for want in bad)}"
        return Finding("wrong", "; ".join(bad.values()), fix)
    named = [f"{want.name} {version_of(want)}" for want in wanted if want.name in NAMED]
    return Finding("ok", f"{len(wanted)} in their tested ranges: {', '.join(named)}")


def requirements() -> list[Requirement]:
    """What hrnet-ray asks for on this machine, without its extras."""
    wanted = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
    return [want for want in wanted if not want.marker or want.marker.evaluate({"extra": ""})]


def fault_of(want: Requirement) -> str | None:
    """What is wrong with an installed package; None where it fits."""
    version = version_of(want)
    if version is None:
        return f"{want.name} is not installed"
    if want.specifier.contains(version, prereleases=True):
        return None
    return f"{want.name} {version}, tested with {want.specifier}"


def version_of(want: Requirement) -> str | None:
    """The installed version. Any OpenCV wheel will do for `opencv-python`."""
    names = OPENCV_WHEELS if want.name in OPENCV_WHEELS else (want.name,)
    return next((version for name in names if (version := _installed(name))), None)


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def opencv_wheels(installed: list[str] | None = None) -> Finding:
    """Exactly one: they write into one folder, where the last wins, with parts of the others."""
    if installed is None:
        installed = [name for name in OPENCV_WHEELS if _installed(name)]
    if len(installed) == 1:
        return Finding("ok", f"{installed[0]} alone")
    if not installed:
        return Finding("wrong", "none is installed", "pip install opencv-python")
    fix = f"pip uninstall -y {' '.join(installed)} && pip install {installed[0]}"
    return Finding("wrong", f"they share one folder: {', '.join(installed)}", fix)


def opencv_imports() -> Finding:
    """OpenCV's ordinary wheel needs libGL and GLib, which small containers lack."""
    done = python("-c", "import cv2; print(cv2.__version__)", limit_s=IMPORT_S)
    if done.returncode == 0:
        return Finding("ok", f"OpenCV {last_line(done.stdout)} finds it, or needs none")
    said = last_line(done.stderr) or f"import cv2 ends with {done.returncode}"
    fix = "sudo apt-get update && sudo apt-get install -y libgl1 libglib2.0-0"
    return Finding("wrong", said, fix if ".so" in said else "pip install opencv-python")

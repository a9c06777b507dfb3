"""What would trouble a run on this machine, each with the command that puts it right.

Nothing is changed, nothing is sent anywhere; a tracking server is asked only where one is named.
"""

import os
import platform
import shutil
import stat
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import psutil
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PACKAGE = "hrnet-ray"
OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
NAMED = ("torch", "ray", "mlflow", "opencv-python", "numpy", "pyarrow")
LEAST_MEMORY_GB = 4  # a local Ray, one worker and the driver
LEAST_DISK_GB = 5
FULLEST = 0.95  # Ray stops making objects on a disk that is fuller
OBJECT_STORE_SHARE = 0.3  # of the memory: what Ray takes from /dev/shm by default
LEAST_FILES = 4096
SERVER_WAIT_S = 3.0
GB = 1e9


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    ok: bool | None
    """None for what works, but not well, or could not be looked at."""
    detail: str
    fix: str = ""
    """The command that puts it right; never empty where `ok` is False."""


def examine(storage: Path, tracking_uri: str | None, *, start_ray: bool = False) -> list[Finding]:
    """Look at everything once; takes a few seconds, and `start_ray` about ten more."""
    findings = [
        *packages(),
        *opencv(),
        device(),
        processors(),
        memory(),
        shared_memory(),
        disk("disk: storage", storage),
        disk("disk: temporary", Path(tempfile.gettempdir())),
        writable(storage),
        open_files(),
        token(os.environ, Path.home()),
    ]
    if tracking_uri is not None:
        findings.append(tracking(tracking_uri))
    if start_ray:
        findings.append(local_ray())
    return findings


def packages() -> Iterator[Finding]:
    """Versions against what hrnet-ray itself asks for; those in range share one finding."""
    try:
        wanted = [Requirement(line) for line in metadata.requires(PACKAGE) or ()]
        python = SpecifierSet(metadata.metadata(PACKAGE)["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        fix = "pip install -e ."
        yield Finding("packages", None, "hrnet-ray is not installed: no ranges known", fix)
        return
    yield python_version(python)
    base = [want for want in wanted if not want.marker or want.marker.evaluate({"extra": ""})]
    found = [package(want) for want in base]
    yield from (finding for finding in found if not finding.ok)
    fitting = [f"{finding.name} {finding.detail}" for finding in found if finding.ok]
    named = [line for line in fitting if line.split()[0] in NAMED]
    yield Finding("packages", True, f"{len(fitting)} in range: {', '.join(named)}")


def python_version(wanted: SpecifierSet) -> Finding:
    """This interpreter against `requires-python`."""
    version = platform.python_version()
    if wanted.contains(version, prereleases=True):
        return Finding("python", True, version)
    fix = "make setup PYTHON=/path/to/python3.12"
    return Finding("python", False, f"{version}, wanted {wanted}", fix)


def package(want: Requirement) -> Finding:
    """One installed version against its range. Any OpenCV wheel will do for `opencv-python`."""
    names = OPENCV_WHEELS if want.name in OPENCV_WHEELS else (want.name,)
    versions = [version for name in names if (version := _version(name))]
    fix = f"pip install '{want}'"
    if not versions:
        return Finding(want.name, False, "not installed", fix)
    if want.specifier.contains(versions[0], prereleases=True):
        return Finding(want.name, True, versions[0])
    return Finding(want.name, False, f"{versions[0]}, wanted {want.specifier}", fix)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def opencv() -> Iterator[Finding]:
    """Several OpenCV wheels write into one folder: the last one wins, and parts of the others."""
    yield one_wheel([name for name in OPENCV_WHEELS if _version(name)])
    try:
        from hrnet_ray.data import pictures  # sets OpenCV's limits, then imports it
    except ImportError as error:
        reason = " ".join(str(error).split())[:120]
        yield Finding("cv2", False, reason, "apt-get install -y libgl1 libglib2.0-0")
        return
    yield Finding("cv2", True, f"imports, version {pictures.cv2.__version__}")


def one_wheel(installed: list[str]) -> Finding:
    """Exactly one of OpenCV's wheels must be there."""
    if len(installed) == 1:
        return Finding("opencv wheels", True, f"{installed[0]} alone")
    if not installed:
        return Finding("opencv wheels", False, "none", "pip install opencv-python")
    remove = f"pip uninstall -y {' '.join(installed)} && pip install {installed[0]}"
    return Finding("opencv wheels", False, f"they share one folder: {', '.join(installed)}", remove)


def device() -> Finding:
    """Where torch would train."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        bf16 = "bf16" if torch.cuda.is_bf16_supported() else "no bf16 (fp32)"
        names = {torch.cuda.get_device_name(at) for at in range(torch.cuda.device_count())}
        said = f"{torch.cuda.device_count()} x {', '.join(sorted(names))}, {bf16}"
        return Finding("device", True, f"{said}, {free / GB:.0f} of {total / GB:.0f} GB free")
    if Path("/dev/nvidia0").exists():
        fix = "pip install --force-reinstall torch  # a CUDA build that fits `nvidia-smi`'s driver"
        said = f"an NVIDIA GPU that torch {torch.__version__} cannot use"
        return Finding("device", False, said, fix)
    return Finding("device", True, "CPU, fp32: right for a demo, slow for more")


def processors() -> Finding:
    """CPUs that this process may use."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    if (count or 1) >= 2:
        return Finding("CPUs", True, f"{count}")
    return Finding("CPUs", None, "1: reading data and training take turns", "use 2 CPUs or more")


def memory() -> Finding:
    """Memory that is free for a run, within the container's limit."""
    total, free = psutil.virtual_memory().total, psutil.virtual_memory().available
    if limit := _container_limit(Path("/sys/fs/cgroup")):
        total, free = min(total, limit[0]), min(free, limit[1])
    detail = f"{free / GB:.1f} of {total / GB:.1f} GB free"
    if free / GB >= LEAST_MEMORY_GB:
        return Finding("memory", True, detail)
    return Finding(
        "memory", None, detail, f"free {LEAST_MEMORY_GB} GB: `ps aux --sort -rss | head`"
    )


def _container_limit(folder: Path) -> tuple[int, int] | None:
    """Limit and rest of a cgroup (version 2), in bytes; None where nothing limits."""
    try:
        limit = int((folder / "memory.max").read_text())
        return limit, limit - int((folder / "memory.current").read_text())
    except (OSError, ValueError):
        return None


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:
    """Where Ray keeps its objects; in a small one it uses the disk instead, which is slow."""
    if not place.is_dir():
        return Finding("shared memory", True, f"no {place} on this system; Ray uses files")
    size, wanted = shutil.disk_usage(place).total, OBJECT_STORE_SHARE * _all_memory()
    detail = f"{place} has {size / GB:.1f} GB, Ray would like {wanted / GB:.1f}"
    if size >= wanted:
        return Finding("shared memory", True, detail)
    gb = max(1, round(wanted / GB))
    return Finding("shared memory", None, detail, f"docker run --shm-size={gb}g ...")


def _all_memory() -> int:
    total = psutil.virtual_memory().total
    limit = _container_limit(Path("/sys/fs/cgroup"))
    return min(total, limit[0]) if limit else total


def disk(name: str, folder: Path) -> Finding:
    """Room where checkpoints or Ray's session go."""
    place = _existing(folder)
    use = shutil.disk_usage(place)
    detail = f"{use.free / GB:.1f} of {use.total / GB:.1f} GB free at {place}"
    fix = f"du -xh {place} | sort -h | tail  # and delete, or choose another folder"
    if use.free < (1 - FULLEST) * use.total:
        return Finding(name, False, f"{detail}: Ray stops at {FULLEST:.0%}", fix)
    if use.free / GB < LEAST_DISK_GB:
        return Finding(name, None, detail, fix)
    return Finding(name, True, detail)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.exists())


def writable(storage: Path) -> Finding:
    """Write a file where runs go and take it away again; a missing folder is not made."""
    place = _existing(storage)
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"doctor")
    except OSError as error:
        fix = f"chmod u+w {place}  # or another --storage"
        return Finding("storage", False, f"{place}: {error.strerror}", fix)
    return Finding("storage", True, f"{place} can be written")


def open_files() -> Finding:
    """Ray opens several files for each worker and each object transfer."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= LEAST_FILES:
        return Finding("open files", True, f"ulimit -n is {soft:,}")
    fix = f"ulimit -n {65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)}"
    return Finding("open files", None, f"ulimit -n is {soft:,}, Ray wants {LEAST_FILES:,}", fix)


def token(environment: Mapping[str, str], home: Path) -> Finding:
    """Who knows Ray's token may run code on the cluster: it must be there, and be private.

    Ray looks at RAY_AUTH_TOKEN, the file of RAY_AUTH_TOKEN_PATH, and ~/.ray/auth_token.
    """
    mode = environment.get("RAY_AUTH_MODE", "").lower()
    path = Path(environment.get("RAY_AUTH_TOKEN_PATH") or home / ".ray" / "auth_token")
    if mode not in ("", "token", "disabled"):
        fix = "export RAY_AUTH_MODE=token"
        return Finding("token", False, f"RAY_AUTH_MODE is {mode!r}, which Ray doesn't know", fix)
    if path.is_file() and others_can_read(path):
        said = f"{path} has mode {stat.S_IMODE(path.stat().st_mode):04o}: others can read it"
        return Finding("token", False, said, f"chmod 600 {path}")
    if mode == "disabled":
        said = "RAY_AUTH_MODE=disabled: whoever reaches Ray's ports may run code"
        return Finding("token", None, said, "export RAY_AUTH_MODE=token")
    has_token = bool(environment.get("RAY_AUTH_TOKEN")) or path.is_file()
    if mode == "token" and not has_token:
        fix = f"ray get-auth-token --generate && chmod 600 {path}"
        return Finding("token", False, f"RAY_AUTH_MODE=token, but no token at {path}", fix)
    if has_token and not mode:
        said = "there is a token, but RAY_AUTH_MODE is not set, as it must be to join a cluster"
        return Finding("token", None, said, "export RAY_AUTH_MODE=token")
    return Finding("token", True, "set and private" if has_token else "none: a local Ray makes one")


def others_can_read(path: Path) -> bool:
    """Whether the group or everybody may read a file and enter all folders above it.

    Ray writes its token with mode 0644; in a closed home that is private enough.
    """
    folders = [folder.stat().st_mode for folder in path.absolute().parents]
    mode = path.stat().st_mode
    return any(
        mode & read and all(folder & enter for folder in folders)
        for read, enter in ((stat.S_IRGRP, stat.S_IXGRP), (stat.S_IROTH, stat.S_IXOTH))
    )


def tracking(uri: str, *, wait_s: float = SERVER_WAIT_S) -> Finding:
    """Ask an MLflow server whether it is well."""
    if not uri.startswith(("http://", "https://")):
        return Finding("MLflow", True, f"{uri.split(':')[0]}: no server to ask")
    address = uri.rstrip("/") + "/health"
    began = time.monotonic()
    fix = "mlflow server --host 127.0.0.1 --port 5000  # or another --tracking-uri"
    try:
        with urllib.request.urlopen(address, timeout=wait_s) as answer:
            said = answer.read(64).decode(errors="replace").strip()
    except (urllib.error.URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return Finding("MLflow", False, f"{address}: {reason}", fix)
    if said != "OK":
        return Finding("MLflow", False, f"{address} answers {said!r}: no MLflow server", fix)
    return Finding("MLflow", True, f"{uri} answers in {time.monotonic() - began:.1f} s")


def local_ray() -> Finding:
    """Start Ray on this machine and stop it again."""
    import ray

    from hrnet_ray.config import Cluster
    from hrnet_ray.runtime.machines import connect

    if ray.is_initialized():
        return Finding("local Ray", None, "this process has one already", "ray.shutdown()")
    began = time.monotonic()
    try:
        connect(Cluster(address="local"))
        cpus = ray.cluster_resources().get("CPU", 0)
    except Exception as error:  # whatever it is, a person wants to read it here
        reason = " ".join(str(error).split())[:160]
        return Finding("local Ray", False, reason, "df -h /tmp /dev/shm")
    finally:
        ray.shutdown()
    return Finding("local Ray", True, f"{cpus:g} CPUs after {time.monotonic() - began:.1f} s")

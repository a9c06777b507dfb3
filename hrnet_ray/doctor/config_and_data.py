"""What a run is given: its settings and its data set."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import Experiment, unflatten
from hrnet_ray.data.integrity import check_shards
from hrnet_ray.data.manifest import read_manifest
from hrnet_ray.data.storage import open_folder
from hrnet_ray.doctor.result import CouldNotLook, Finding, python
from hrnet_ray.errors import DataError, HrnetRayError
from hrnet_ray.skeletons import named

READ_S = 30.0


@dataclass(frozen=True)
class Settings:
    """What a file of settings was found to be."""

    finding: Finding
    experiment: Experiment | None = None


def read_settings(path: Path | None, *, limit_s: float = READ_S) -> Settings:
    """An experiment's page (.py: its BASE and SPACE), or a skeleton (.yaml)."""
    if path is None:
        return Settings(Finding("unasked", "no file named (--config experiments/X.py)"))
    if not path.is_file():
        return Settings(Finding("wrong", f"no file {path}", "ls experiments/*.py"))
    if path.suffix == ".py":
        return _page(path, limit_s)
    if path.suffix in (".yaml", ".yml"):
        return Settings(_skeleton(path))
    said = f"{path} is neither an experiment's page (.py) nor a skeleton (.yaml)"
    return Settings(Finding("wrong", said, "ls experiments/*.py"))


def _page(path: Path, limit_s: float) -> Settings:
    try:
        done = python("-m", f"{__package__}.page", str(path), limit_s=limit_s)
    except CouldNotLook:
        said = f"could not look: {path} is not read in {limit_s:g} s (does it wait for something?)"
        return Settings(Finding("careful", said, f"python {shlex.quote(str(path))} --help"))
    try:
        answer = json.loads((done.stderr if done.returncode else done.stdout).splitlines()[-1])
    except (ValueError, IndexError):  # the page ended the process itself
        said = f"{path} ends with exit code {done.returncode} when it is read"
        return Settings(Finding("wrong", said, _edit(path, 1)))
    if done.returncode:
        said = f"{path}, line {answer['line']}: {answer['said']}"
        return Settings(Finding("wrong", said, _edit(path, answer["line"])))
    experiment = unflatten(Experiment, answer["settings"])
    searched = f", {answer['searched']} of them searched" if answer["searched"] else ""
    said = f"{path}: {experiment.name}, {len(answer['settings'])} settings{searched}"
    return Settings(Finding("ok", said), experiment)


def _skeleton(path: Path) -> Finding:
    try:
        skeleton = named(str(path))
    except DataError as error:
        return Finding("wrong", f"{error.what}, {error.where} ({error.fix})", _edit(path, 1))
    return Finding("ok", f"{path}: skeleton {skeleton.name!r} of {len(skeleton)} keypoints")


def _edit(path: Path, line: int) -> str:
    return f'"${{EDITOR:-vi}}" +{line} {shlex.quote(str(path))}'


def data(root: str | None) -> Finding:
    """Whether a prepared data set is there, with the shards its manifest names. Reads no row."""
    if root is None:
        return Finding("unasked", "no data set named (--data DIR)")
    quoted = shlex.quote(root)
    try:
        if open_folder(root, "--data").size("manifest.json") is None:
            fix = f"hrnet-ray prepare synthetic --kind tigers --out {quoted}  # or coco, atrw, mpii"
            return Finding("wrong", f"{root} is no prepared data set: no manifest.json", fix)
        manifest = read_manifest(root)
        check_shards(manifest)
    except HrnetRayError as error:
        said = f"{error.what}, {error.where} ({error.fix})"
        return Finding("wrong", said, f"hrnet-ray check {quoted}  # names all that is damaged")
    rows = ", ".join(f"{split.rows:,} in {name}" for name, split in manifest.splits.items())
    shards = sum(len(split.shards) for split in manifest.splits.values())
    return Finding("ok", f"{manifest.name}: {rows}; {shards} shards as the manifest says")

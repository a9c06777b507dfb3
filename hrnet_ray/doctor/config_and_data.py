"""Checks of the recipe and the dataset of a run."""

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from hrnet_ray.config import ExperimentConfig, unflatten_config
from hrnet_ray.data.integrity import verify_footers
from hrnet_ray.data.manifest import read_manifest
from hrnet_ray.data.storage import open_storage_dir
from hrnet_ray.doctor.result import CheckResult, CheckSkipped, run_python
from hrnet_ray.errors import DataError, HrnetRayError
from hrnet_ray.skeletons import load_skeleton

READ_TIMEOUT_S = 30.0
"""Seconds to load a recipe, or to read a dataset."""


@dataclass(frozen=True)
class RecipeCheck:
    """Result of the check of a recipe, and its settings if it could be loaded."""

    result: CheckResult
    experiment: ExperimentConfig | None = None


def check_recipe(path: Path | None, *, timeout_s: float = READ_TIMEOUT_S) -> RecipeCheck:
    """Check a recipe (.py with BASE and SPACE) or a skeleton (.yaml)."""
    if path is None:
        return RecipeCheck(CheckResult("unasked", "no recipe given (--config experiments/X.py)"))
    if not path.is_file():
        return RecipeCheck(CheckResult("wrong", f"no file {path}", "ls experiments/*.py"))
    if path.suffix == ".py":
        return _check_recipe_file(path, timeout_s)
    if path.suffix in (".yaml", ".yml"):
        return RecipeCheck(_check_skeleton_file(path))
    detail = f"{path} must be a recipe (.py) or a skeleton (.yaml)"
    return RecipeCheck(CheckResult("wrong", detail, "ls experiments/*.py"))


def _check_recipe_file(path: Path, timeout_s: float) -> RecipeCheck:
    try:
        done = run_python("-m", f"{__package__}.load_recipe", str(path), timeout_s=timeout_s)
    except CheckSkipped:
        detail = f"not checked: {path} did not load in {timeout_s:g} s (does it wait for something?)"
        return RecipeCheck(CheckResult("careful", detail, f"python {shlex.quote(str(path))} --help"))
    try:
        answer = json.loads((done.stderr if done.returncode else done.stdout).splitlines()[-1])
    except (ValueError, IndexError):  # the recipe ended the process
        detail = f"{path} ends the process with exit code {done.returncode} when it is loaded"
        return RecipeCheck(CheckResult("wrong", detail, _format_edit_command(path, 1)))
    if done.returncode:
        detail = f"{path}, line {answer['line']}: {answer['message']}"
        return RecipeCheck(CheckResult("wrong", detail, _format_edit_command(path, answer["line"])))
    experiment = unflatten_config(ExperimentConfig, answer["settings"])
    searched = f", {answer['searched']} of them searched" if answer["searched"] else ""
    detail = f"{path}: {experiment.name}, {len(answer['settings'])} settings{searched}"
    return RecipeCheck(CheckResult("ok", detail), experiment)


def _check_skeleton_file(path: Path) -> CheckResult:
    try:
        skeleton = load_skeleton(str(path))
    except DataError as error:
        return CheckResult("wrong", f"{error.what}, {error.where} ({error.fix})", _format_edit_command(path, 1))
    return CheckResult("ok", f"{path}: skeleton {skeleton.name!r} of {len(skeleton)} keypoints")


def _format_edit_command(path: Path, line: int) -> str:
    return f'"${{EDITOR:-vi}}" +{line} {shlex.quote(str(path))}'


def check_dataset(dataset_uri: str | None) -> CheckResult:
    """Check that a prepared dataset has all shards of its manifest, without reading rows."""
    if dataset_uri is None:
        return CheckResult("unasked", "no dataset given (--data DIR)")
    quoted = shlex.quote(dataset_uri)
    try:
        if open_storage_dir(dataset_uri, "--data").get_file_size("manifest.json") is None:
            fix = f"hrnet-ray prepare synthetic --kind tigers --out {quoted}  # or coco, atrw, mpii"
            return CheckResult("wrong", f"{dataset_uri} is not a prepared dataset: no manifest.json", fix)
        manifest = read_manifest(dataset_uri)
        verify_footers(manifest)
    except HrnetRayError as error:
        detail = f"{error.what}, {error.where} ({error.fix})"
        return CheckResult("wrong", detail, f"hrnet-ray check {quoted}  # lists all damaged files")
    rows = ", ".join(f"{split.rows:,} in {name}" for name, split in manifest.splits.items())
    shards = sum(len(split.shards) for split in manifest.splits.values())
    return CheckResult("ok", f"{manifest.name}: {rows}; {shards} shards match the manifest")

"""What a run is given: its settings and its data set."""

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


@dataclass(frozen=True)
class RecipeCheck:
    """What a file of settings was found to be."""

    result: CheckResult
    experiment: ExperimentConfig | None = None


def check_recipe(path: Path | None, *, timeout_s: float = READ_TIMEOUT_S) -> RecipeCheck:
    """An experiment's page (.py: its BASE and SPACE), or a skeleton (.yaml)."""
    if path is None:
        return RecipeCheck(CheckResult("unasked", "no file named (--config experiments/X.py)"))
    if not path.is_file():
        return RecipeCheck(CheckResult("wrong", f"no file {path}", "ls experiments/*.py"))
    if path.suffix == ".py":
        return _check_recipe_file(path, timeout_s)
    if path.suffix in (".yaml", ".yml"):
        return RecipeCheck(_check_skeleton_file(path))
    said = f"{path} is neither an experiment's page (.py) nor a skeleton (.yaml)"
    return RecipeCheck(CheckResult("wrong", said, "ls experiments/*.py"))


def _check_recipe_file(path: Path, timeout_s: float) -> RecipeCheck:
    try:
        done = run_python("-m", f"{__package__}.load_recipe", str(path), timeout_s=timeout_s)
    except CheckSkipped:
        said = (
            f"could not look: {path} is not read in {timeout_s:g} s (does it wait for something?)"
        )
        return RecipeCheck(CheckResult("careful", said, f"python {shlex.quote(str(path))} --help"))
    try:
        answer = json.loads((done.stderr if done.returncode else done.stdout).splitlines()[-1])
    except (ValueError, IndexError):  # the page ended the process itself
        said = f"{path} ends with exit code {done.returncode} when it is read"
        return RecipeCheck(CheckResult("wrong", said, _format_edit_command(path, 1)))
    if done.returncode:
        said = f"{path}, line {answer['line']}: {answer['said']}"
        return RecipeCheck(CheckResult("wrong", said, _format_edit_command(path, answer["line"])))
    experiment = unflatten_config(ExperimentConfig, answer["settings"])
    searched = f", {answer['searched']} of them searched" if answer["searched"] else ""
    said = f"{path}: {experiment.name}, {len(answer['settings'])} settings{searched}"
    return RecipeCheck(CheckResult("ok", said), experiment)


def _check_skeleton_file(path: Path) -> CheckResult:
    try:
        skeleton = load_skeleton(str(path))
    except DataError as error:
        return CheckResult(
            "wrong", f"{error.what}, {error.where} ({error.fix})", _format_edit_command(path, 1)
        )
    return CheckResult("ok", f"{path}: skeleton {skeleton.name!r} of {len(skeleton)} keypoints")


def _format_edit_command(path: Path, line: int) -> str:
    return f'"${{EDITOR:-vi}}" +{line} {shlex.quote(str(path))}'


def check_dataset(dataset_uri: str | None) -> CheckResult:
    """Whether a prepared data set is there, with the shards its manifest names. Reads no row."""
    if dataset_uri is None:
        return CheckResult("unasked", "no data set named (--data DIR)")
    quoted = shlex.quote(dataset_uri)
    try:
        if open_storage_dir(dataset_uri, "--data").get_file_size("manifest.json") is None:
            fix = f"hrnet-ray prepare synthetic --kind tigers --out {quoted}  # or coco, atrw, mpii"
            return CheckResult(
                "wrong", f"{dataset_uri} is no prepared data set: no manifest.json", fix
            )
        manifest = read_manifest(dataset_uri)
        verify_footers(manifest)
    except HrnetRayError as error:
        said = f"{error.what}, {error.where} ({error.fix})"
        return CheckResult("wrong", said, f"hrnet-ray check {quoted}  # names all that is damaged")
    rows = ", ".join(f"{split.rows:,} in {name}" for name, split in manifest.splits.items())
    shards = sum(len(split.shards) for split in manifest.splits.values())
    return CheckResult("ok", f"{manifest.name}: {rows}; {shards} shards as the manifest says")

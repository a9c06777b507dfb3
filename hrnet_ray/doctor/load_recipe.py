"""Load a recipe, as a program: `python -m hrnet_ray.doctor.load_recipe RECIPE`.

A recipe is Python code; in a process of its own it can neither hang nor end the doctor. Prints one
line of JSON, on stdout for the settings or on stderr for an error.
"""

import json
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

from hrnet_ray.config import ExperimentConfig, flatten_config
from hrnet_ray.errors import HrnetRayError


def load_recipe(path: Path) -> dict[str, Any]:
    """Run a recipe, and return the settings of BASE and the number of searched ones in SPACE.

    Raises:
        ValueError: the recipe has no BASE.
        UsageError: SPACE is not a valid search space.
    """
    sys.path.insert(0, str(path.parent))  # as for `python RECIPE`
    recipe = runpy.run_path(str(path), run_name="recipe")
    if not isinstance(recipe.get("BASE"), ExperimentConfig):
        raise ValueError("no `BASE = ExperimentConfig(...)`")
    if space := recipe.get("SPACE"):
        # Imports Ray, as a recipe with a search space does anyway.
        from hrnet_ray.distributed.tuning.samplers import validate_search_space

        validate_search_space(recipe["BASE"], space)
    return {"settings": flatten_config(recipe["BASE"]), "searched": len(space or {})}


def find_error_line(error: BaseException, path: Path) -> int:
    """Return the line of the recipe that raised the error; 1 if unknown."""
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    lines = (frame.lineno for frame in reversed(frames) if frame.filename == str(path))
    return next(lines, None) or 1


def print_recipe(path: Path) -> None:
    """Print the settings of a recipe, or exit with the error as JSON."""
    try:
        print("\n" + json.dumps(load_recipe(path)))
    except Exception as error:  # a recipe may raise anything
        text = f"{error.what}, {error.where}" if isinstance(error, HrnetRayError) else str(error)
        message = f"{type(error).__name__}: {' '.join(text.split())}"
        sys.exit("\n" + json.dumps({"line": find_error_line(error, path), "message": message}))


if __name__ == "__main__":
    print_recipe(Path(sys.argv[1]))

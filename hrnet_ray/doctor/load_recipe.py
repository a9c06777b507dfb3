"""Read an experiment's page. A program: `python -m hrnet_ray.doctor.load_recipe PAGE`.

A page is Python, and whoever names it wants it run; in a process of its own it can neither hang nor
end the doctor. Prints one line of JSON, or one line of what is wrong on stderr.
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
    """The settings of its BASE, and how many of them its SPACE searches.

    Raises:
        ValueError: it has no BASE.
        UsageError: its SPACE cannot be searched.
    """
    sys.path.insert(0, str(path.parent))  # as `python PAGE` has it
    page = runpy.run_path(str(path), run_name="page")
    if not isinstance(page.get("BASE"), ExperimentConfig):
        raise ValueError("it has no `BASE = ExperimentConfig(...)`")
    if space := page.get("SPACE"):
        from hrnet_ray.distributed.tuning.samplers import (
            validate_search_space,  # Ray: where it is in use anyway
        )

        validate_search_space(page["BASE"], space)
    return {"settings": flatten_config(page["BASE"]), "searched": len(space or {})}


def find_error_line(error: BaseException, path: Path) -> int:
    """Where in the page it went wrong; 1 where that cannot be told."""
    if isinstance(error, SyntaxError):
        return error.lineno or 1
    frames = traceback.extract_tb(error.__traceback__)
    return next((at.lineno or 1 for at in reversed(frames) if at.filename == str(path)), 1)


def print_recipe(path: Path) -> None:
    """Read and print."""
    try:
        print("\n" + json.dumps(load_recipe(path)))
    except Exception as error:  # a page is anybody's code
        said = f"{error.what}, {error.where}" if isinstance(error, HrnetRayError) else str(error)
        said = f"{type(error).__name__}: {' '.join(said.split())}"
        sys.exit(f"\n{json.dumps({'line': find_error_line(error, path), 'said': said})}")


if __name__ == "__main__":
    print_recipe(Path(sys.argv[1]))

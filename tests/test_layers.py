"""Who may know whom: house rules that hold without reading the code."""

import subprocess
import sys

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["hrnet_ray", "hrnet_ray.training.engine"])
def test_importing_it_loads_neither_ray_nor_mlflow(module: str):
    done = python(f"import sys, {module}; print(sorted({{'ray', 'mlflow'}} & set(sys.modules)))")

    assert done.stdout == "[]\n", done.stderr


def test_importing_hrnet_ray_loads_no_torch_until_a_name_needs_it():
    done = python(
        "import sys, hrnet_ray; print('torch' in sys.modules, len(hrnet_ray.ATRW))\n"
        "hrnet_ray.HRNet; print('torch' in sys.modules)"
    )

    assert done.stdout.split() == ["False", "15", "True"], done.stderr


def test_the_layers_of_pyproject_hold(root):
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"

    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr

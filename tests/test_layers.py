"""Who may know whom: house rules that hold without reading the code."""

import subprocess
import sys

import pytest


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("module", ["hrnet_ray", "hrnet_ray.learning.loop"])
def test_importing_it_loads_neither_ray_nor_mlflow(module: str):
    done = python(f"import sys, {module}; print(sorted({{'ray', 'mlflow'}} & set(sys.modules)))")

    assert done.stdout == "[]\n", done.stderr


def test_importing_hrnet_ray_is_quick():
    done = python(
        "import time; t0 = time.perf_counter(); import torch; t1 = time.perf_counter()\n"
        "import hrnet_ray; print(time.perf_counter() - t1)"
    )

    beyond_torch_s = float(done.stdout)
    print(f"import hrnet_ray: {beyond_torch_s:.2f} s beyond torch (aim: 0.3 s)")
    assert beyond_torch_s < 5  # only a disaster; benchmarks/ holds the aim


def test_the_layers_of_pyproject_hold(root):
    code = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"

    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr

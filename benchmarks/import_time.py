"""How long `import hrnet_ray` takes, and what it adds to `import torch`.

    python benchmarks/import_time.py

Five fresh interpreters each, alternating; the median counts. Ends with one JSON line.
"""

import json
import statistics
import subprocess
import sys

RUNS = 5
CODE = "import time{first}; start = time.perf_counter(); import hrnet_ray{use}; print(time.perf_counter() - start)"
CASES = {
    "alone_s": {"first": "", "use": ""},
    "beyond_torch_s": {"first": ", torch", "use": ""},
    "with_the_net_beyond_torch_s": {"first": ", torch", "use": "; hrnet_ray.HRNet"},
}


def seconds(case: dict[str, str]) -> float:
    """One fresh interpreter."""
    command = [sys.executable, "-c", CODE.format(**case)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print."""
    runs = [{name: seconds(case) for name, case in CASES.items()} for _ in range(RUNS)]
    print(json.dumps({n: round(statistics.median(run[n] for run in runs), 3) for n in CASES}))


if __name__ == "__main__":
    main()

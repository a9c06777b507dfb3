"""How busy the machine is: MLflow's own numbers of processor, memory and GPUs, on disk first."""

import json
import threading
import time
from contextlib import suppress
from pathlib import Path

from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor

from hrnet_ray.tracking.run_history import SYSTEM_METRICS_FILE

SAMPLE_INTERVAL_S = 10.0


class SystemMetricsSampler:
    """Adds a line to `system_metrics.jsonl` every ten seconds: of the machine that the command runs on."""

    def __init__(self, folder: Path, *, interval_s: float = SAMPLE_INTERVAL_S) -> None:
        self._path, self._interval_s = folder / SYSTEM_METRICS_FILE, interval_s
        self._monitors: list[BaseMetricsMonitor] = [CPUMonitor()]
        with suppress(ImportError, RuntimeError):  # no GPU, or no nvidia-ml-py to ask it
            self._monitors.append(GPUMonitor())
        self._stop_event = threading.Event()
        self._thread = threading.Thread(target=self._run_loop, daemon=True, name="system")
        self._thread.start()

    def stop_sampling(self) -> None:
        """Take a last sample, so that the shortest run has one."""
        self._stop_event.set()
        self._thread.join()

    def _run_loop(self) -> None:
        self._monitors[0].collect_metrics()  # psutil counts from the last time it was asked
        self._monitors[0].clear_metrics()
        while not self._stop_event.wait(self._interval_s):
            self._append_sample()
        self._append_sample()

    def _append_sample(self) -> None:
        line: dict[str, float] = {"at_ms": int(time.time() * 1000)}
        for monitor in self._monitors:
            monitor.collect_metrics()
            means: dict[str, float] = monitor.aggregate_metrics() or {}
            line |= {f"system/{name}": value for name, value in means.items()}
            monitor.clear_metrics()
        with suppress(OSError), self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

"""Runs in MLflow. The only package that imports mlflow.

The driver writes the record of a run into the run's folder (`experiment`, `run_record`). A thread
(`sync_thread`) or `hrnet-ray mlflow-sync` (`sync_command`) reads it there and syncs it to a server
(`sync_run`, `mlflow_store`). So a training never waits for a server and never fails because of one.
Importing this package does not import mlflow; opening an `MlflowExperiment` does.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it contacts a server on the internet

from hrnet_ray.tracking.experiment import MlflowExperiment, RunLogger, default_tracking_uri
from hrnet_ray.tracking.run_record import DatasetVersion

__all__ = ["DatasetVersion", "MlflowExperiment", "RunLogger", "default_tracking_uri"]

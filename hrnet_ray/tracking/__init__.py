"""What happened, for the MLflow UI. The only package that imports mlflow.

The driver writes what MLflow shall know into the run's folder (`board`, `story`); a thread, or
`hrnet-ray mlflow-sync` a year later, reads it there and tells a server (`shipper`, `sync`, both by
`telling` and `server`). So a training never waits for a server, and never fails because of one.
Importing this package does not import mlflow: opening a board does.
"""

import os

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # it asks a server on the internet

from hrnet_ray.tracking.experiment import MlflowExperiment, RunLogger, default_tracking_uri
from hrnet_ray.tracking.run_record import DatasetVersion

__all__ = ["DatasetVersion", "MlflowExperiment", "RunLogger", "default_tracking_uri"]

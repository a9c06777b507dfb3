"""What happened, for the MLflow UI. The only package that imports mlflow."""

from hrnet_ray.tracking.board import Board, Run, database_uri

__all__ = ["Board", "Run", "database_uri"]

"""The dataset report of a run, with the run's own augmentation: `dataset_report/`."""

from pathlib import Path

from hrnet_ray.config import ExperimentConfig
from hrnet_ray.data.manifest import DatasetManifest
from hrnet_ray.reports.dataset.dataset_report import format_summary_line, write_dataset_report
from hrnet_ray.reports.dataset.statistics import compute_statistics
from hrnet_ray.runs.event_log import log_event
from hrnet_ray.runs.log_capture import RUN_LOG, write_traceback
from hrnet_ray.runs.progress import make_progress_line
from hrnet_ray.training.builders import build_augmentation_config

MIN_ROWS_FOR_PROGRESS = 5_000
"""Rows from which the report takes seconds and shows its progress."""
MAX_REPORT_ROWS = 50_000
"""Rows up to which a run writes the report: each costs some milliseconds of a core."""


def write_run_dataset_report(run_folder: Path, experiment: ExperimentConfig, manifest: DatasetManifest) -> None:
    """Write the report of `hrnet-ray check` once, and print a summary line.

    A failure does not stop the training.
    """
    out = run_folder / "dataset_report"
    if (out / "report.html").is_file():
        return
    rows = sum(split.rows for split in manifest.splits.values())
    if not manifest.folder.is_local or rows > MAX_REPORT_ROWS:
        print(f"Dataset report skipped. To write it: hrnet-ray check {manifest.root} --out {out}")
        return
    show_progress = rows >= MIN_ROWS_FOR_PROGRESS
    try:
        statistics = compute_statistics(
            manifest,
            progress=(lambda split: make_progress_line(f"check {split}")) if show_progress else None,
        )
        page = write_dataset_report(
            manifest,
            out,
            pipeline_config=build_augmentation_config(experiment, manifest),
            sigma=experiment.heatmap.sigma,
            quantize_center=experiment.heatmap.quantize_center,
            statistics=statistics,
        )
    except Exception as error:  # an unforeseen image must not stop the training
        write_traceback(run_folder)
        message = f"no dataset report ({type(error).__name__}, see {RUN_LOG})"
        log_event(run_folder, "no_dataset_report", message)
    else:
        print(f"dataset: {format_summary_line(statistics, page)}", flush=True)

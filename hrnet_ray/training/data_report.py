"""A look at the data where a run begins, by the run's own recipe: `data/` of its folder."""

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
"""Rows, from which on it takes seconds, and says how far it is."""
MAX_REPORT_ROWS = 50_000
"""Rows that are looked at unasked: each is some milliseconds of a core before the training."""


def write_run_dataset_report(
    run_folder: Path, experiment: ExperimentConfig, manifest: DatasetManifest
) -> None:
    """Write what `hrnet-ray check` writes, once; say what deserves a look before it is learnt.

    A training goes on without it.
    """
    out = run_folder / "dataset_report"
    if (out / "report.html").is_file():
        return
    rows = sum(split.rows for split in manifest.splits.values())
    if not manifest.folder.is_local or rows > MAX_REPORT_ROWS:
        print(f"the data: hrnet-ray check {manifest.root} --out {out} makes a page of it")
        return
    many = rows >= MIN_ROWS_FOR_PROGRESS
    try:
        counts = compute_statistics(
            manifest,
            progress=(lambda split: make_progress_line(f"looked at {split}")) if many else None,
        )
        page = write_dataset_report(
            manifest,
            out,
            pipeline_config=build_augmentation_config(experiment, manifest),
            sigma=experiment.heatmap.sigma,
            quantize_center=experiment.heatmap.quantize_center,
            statistics=counts,
        )
    except Exception as error:  # a picture that nobody thought of costs no training
        write_traceback(run_folder)
        said = f"no page of the data ({type(error).__name__}, see {RUN_LOG})"
        log_event(run_folder, "no_look", said)
    else:
        print(f"the data: {format_summary_line(counts, page)}", flush=True)

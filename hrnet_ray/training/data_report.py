"""A look at the data where a run begins, by the run's own recipe: `data/` of its folder."""

from pathlib import Path

from hrnet_ray.config import Experiment
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.reports.dataset.dataset_report import closing, write_report
from hrnet_ray.reports.dataset.statistics import count
from hrnet_ray.runs.event_log import append_fault
from hrnet_ray.runs.log_capture import LOG, keep_story
from hrnet_ray.runs.progress import counter
from hrnet_ray.training.builders import recipe_of

MANY = 5_000
"""Rows, from which on it takes seconds, and says how far it is."""
MOST = 50_000
"""Rows that are looked at unasked: each is some milliseconds of a core before the training."""


def look_at_data(run_folder: Path, experiment: Experiment, manifest: Manifest) -> None:
    """Write what `hrnet-ray check` writes, once; say what deserves a look before it is learnt.

    A training goes on without it.
    """
    out = run_folder / "data"
    if (out / "check.html").is_file():
        return
    rows = sum(split.rows for split in manifest.splits.values())
    if not manifest.folder.is_local or rows > MOST:
        print(f"the data: hrnet-ray check {manifest.root} --out {out} makes a page of it")
        return
    many = rows >= MANY
    try:
        counts = count(
            manifest, progress=(lambda split: counter(f"looked at {split}")) if many else None
        )
        page = write_report(
            manifest,
            out,
            recipe=recipe_of(experiment, manifest),
            sigma=experiment.heatmap.sigma,
            rounded=experiment.heatmap.rounded,
            counts=counts,
        )
    except Exception as error:  # a picture that nobody thought of costs no training
        keep_story(run_folder)
        said = f"no page of the data ({type(error).__name__}, see {LOG})"
        append_fault(run_folder, "no_look", said)
    else:
        print(f"the data: {closing(counts, page)}", flush=True)

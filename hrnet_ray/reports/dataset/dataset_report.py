"""The data report: look at the data before a model does.

OUT/check.html              the page, complete in itself
OUT/samples.png             16 training instances as they are stored
OUT/samples_augmented.png   the same ones as the model meets them in its first epoch, with heatmaps
OUT/suspects.png            16 things that deserve a look, if there are any
OUT/counts.csv              all figures
OUT/suspects.csv            everything that deserves a look
OUT/skipped.csv             everything that was left out
"""

from pathlib import Path

from hrnet_ray.data.batch import Recipe
from hrnet_ray.data.images import codec
from hrnet_ray.data.manifest import Manifest
from hrnet_ray.errors import DataError
from hrnet_ray.reports.dataset.augmented_samples import augmented_tiles
from hrnet_ray.reports.dataset.csv_tables import write_counts, write_skipped, write_suspects
from hrnet_ray.reports.dataset.dataset_page import page
from hrnet_ray.reports.dataset.sample_grids import (
    as_sheet,
    read_samples,
    stored_tiles,
    suspect_tiles,
)
from hrnet_ray.reports.dataset.statistics import Counts, count


def write_report(
    manifest: Manifest,
    out: Path,
    *,
    recipe: Recipe,
    sigma: float,
    rounded: bool = True,
    counts: Counts | None = None,
) -> Path:
    """Write the files above and return the page's path.

    The second sheet shows epoch 0 of a run with this `recipe` and heatmaps of this `sigma`.
    `counts` is for a caller who has called `count` already.

    Raises:
        DataError: a split without rows, files that do not add up, or `out` cannot be written.
    """
    counts = counts or count(manifest)
    samples = read_samples(manifest)
    sheets = {
        "samples": stored_tiles(samples, manifest.skeleton),
        "samples_augmented": augmented_tiles(samples, recipe, sigma=sigma, rounded=rounded),
        "suspects": suspect_tiles(manifest, counts),
    }
    html = page(manifest, counts, sheets, recipe, sigma)
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_counts(counts, out / "counts.csv")
        write_suspects(counts, out / "suspects.csv")
        write_skipped(counts, out / "skipped.csv")
        path = out / "check.html"
        path.write_text(html, encoding="utf-8")
        (out / "suspects.png").unlink(missing_ok=True)  # of an earlier time
    except OSError as error:
        raise DataError(
            "a report that cannot be written",
            f"--out {out}: {error.strerror}",
            "give a folder that can be written",
        ) from error
    for name, tiles in sheets.items():
        if tiles:
            codec.write(out / f"{name}.png", as_sheet(tiles))
    return path


def closing(counts: Counts, page: Path) -> str:
    """One line: how much there is to look at, and where."""
    kinds = counts.worth_a_look()
    if not kinds and not counts.doubts:
        return f"nothing unusual; page: {page}"
    gravest = [f"{kind}: {number:,}" for kind, number in list(kinds.items())[:2]]
    more = len(kinds) - len(gravest) + len(counts.doubts)
    rest = [f"{more} more kind{'s' if more > 1 else ''} of things"] if more else []
    return f"worth a look: {'; '.join([*gravest, *rest])}; page: {page}"

"""The log of corrupt rows."""

from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.training.sample_log import CHANGED_REASON, SampleLog


def make_log(manifest: DatasetManifest, folder) -> SampleLog:
    return SampleLog(manifest, folder, log_sample_order=False, active=True)


def test_a_logged_row_is_not_named_again_after_a_crash(tigers: DatasetManifest, tmp_path):
    first, second = read_split(tigers, "train", columns=["id"])["id"].to_pylist()[:2]
    path = tmp_path / "dataset_report" / "skipped.csv"

    _, names = make_log(tigers, tmp_path).log_corrupt_rows({("train", first)})
    assert len(names) == 1
    with path.open("a") as file:  # a line of an older version, and a truncated one
        file.write(f"train,7,a.jpg,{CHANGED_REASON}\ntrain,b.jpg,{CHANGED_REASON}")
    _, names = make_log(tigers, tmp_path).log_corrupt_rows({("train", first), ("train", second)})

    assert [line.rpartition("#")[2] for line in names] == [str(second)]

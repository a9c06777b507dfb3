from hrnet_ray.data.manifest import DatasetManifest, read_split
from hrnet_ray.training.sample_log import CHANGED_REASON, SampleLog


def ledger(manifest: DatasetManifest, folder) -> SampleLog:
    return SampleLog(manifest, folder, log_sample_order=False, active=True)


def test_what_was_named_before_is_not_named_again_whatever_a_crash_left(
    tigers: DatasetManifest, tmp_path
):
    first, second = read_split(tigers, "train", columns=["id"])["id"].to_pylist()[:2]
    path = tmp_path / "data" / "skipped.csv"

    _, named = ledger(tigers, tmp_path).log_corrupt_rows({("train", first)})
    assert len(named) == 1
    with path.open("a") as file:  # a line of an older version, and one that a crash cut short
        file.write(f"train,7,a.jpg,{CHANGED_REASON}\ntrain,b.jpg,{CHANGED_REASON}")
    _, named = ledger(tigers, tmp_path).log_corrupt_rows({("train", first), ("train", second)})

    assert [line.rpartition("#")[2] for line in named] == [str(second)]

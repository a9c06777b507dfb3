from hrnet_ray.data.manifest import Manifest, read_table
from hrnet_ray.training.sample_log import CHANGED, Ledger


def ledger(manifest: Manifest, folder) -> Ledger:
    return Ledger(manifest, folder, write_order=False, active=True)


def test_what_was_named_before_is_not_named_again_whatever_a_crash_left(tigers: Manifest, tmp_path):
    first, second = read_table(tigers, "train", columns=["id"])["id"].to_pylist()[:2]
    path = tmp_path / "data" / "skipped.csv"

    _, named = ledger(tigers, tmp_path).skipped({("train", first)})
    assert len(named) == 1
    with path.open("a") as file:  # a line of an older version, and one that a crash cut short
        file.write(f"train,7,a.jpg,{CHANGED}\ntrain,b.jpg,{CHANGED}")
    _, named = ledger(tigers, tmp_path).skipped({("train", first), ("train", second)})

    assert [line.rpartition("#")[2] for line in named] == [str(second)]

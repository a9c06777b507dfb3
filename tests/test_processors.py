import os
from pathlib import Path

import pytest

from hrnet_ray.processors import usable_cpus

SEEN = usable_cpus(Path("/nowhere"))


@pytest.mark.parametrize(
    ("limit", "cpus"),
    [
        ("max 100000", SEEN),
        ("50000 100000", 1),
        ("100000 100000", 1),
        ("150000 100000", min(2, SEEN)),
        ("9900000 100000", SEEN),
        ("not a limit", SEEN),
    ],
)
def test_a_container_has_its_share_of_the_processors(tmp_path: Path, limit: str, cpus: int):
    (tmp_path / "cpu.max").write_text(limit + "\n")

    assert usable_cpus(tmp_path) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="not on this system")
def test_a_process_that_is_kept_on_one_processor_has_one():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cpus(Path("/nowhere")) == 1
    finally:
        os.sched_setaffinity(0, before)

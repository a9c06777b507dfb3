"""A worker that hangs, which nobody tells Ray: it is asked, and does not answer."""

import pytest

from hrnet_ray.runtime.losses import RESTARTS
from hrnet_ray.runtime.records import read_epochs, read_faults
from tests.chaos.commands import Command

pytestmark = pytest.mark.chaos

EPOCHS = 6
PATIENCE_S = 20  # a run has 60


def test_a_worker_that_hangs_is_named_replaced_and_changes_nothing(tigers, tmp_path):
    figures = []
    for name, fault in (("calm", ""), ("hurt", "hang:rank=1,epoch=3,step=1")):
        command = Command(tigers, tmp_path / name, epochs=EPOCHS)
        more = {
            "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(PATIENCE_S),
            "HRNET_RAY_ALLOW_FAULTS": "1",
            "HRNET_RAY_FAULTS": fault,
        }
        with command.started(**more) as driver:
            said = driver.communicate()[0]
        assert driver.returncode == 0, said
        figures.append(command.figures())

    assert figures[0] == figures[1]  # bit for bit
    assert len(figures[1]) == EPOCHS
    (note,) = read_faults(command.run)
    assert note.startswith("lost worker 1 on node ")
    assert note.endswith(f": it did not answer for {PATIENCE_S} s; going on after epoch 3")
    assert note in said
    assert read_epochs(command.run)[-1][RESTARTS] == 1

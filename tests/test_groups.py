"""How the tests share two processes."""

import os

import pytest


@pytest.mark.ray
def test_all_that_start_ray_are_in_one_process(request: pytest.FixtureRequest):
    in_two = "PYTEST_XDIST_WORKER" in os.environ

    assert request.node.nodeid.endswith("@ray") == in_two

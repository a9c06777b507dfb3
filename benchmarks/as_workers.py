"""Starts a benchmark in the environment that training workers have."""

import os
import sys

from hrnet_ray.training.cpu_env import CPU_TRAINING_ENV


def start_again() -> None:
    """Begin this very program anew, with what has to be said before a process starts."""
    if not os.environ.keys() >= CPU_TRAINING_ENV.keys():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**CPU_TRAINING_ENV, **os.environ})

"""The tiny dataset and experiment, for runs with injected failures."""

from tests.chaos.commands import calm
from tests.tiny_experiment import here, tigers, tiny

__all__ = ["calm", "here", "tigers", "tiny"]

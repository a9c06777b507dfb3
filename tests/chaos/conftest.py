"""The tiny dataset and experiment, for runs with injected failures."""

from tests.chaos.commands import undisturbed
from tests.tiny_experiment import here, tigers, tiny

__all__ = ["here", "tigers", "tiny", "undisturbed"]

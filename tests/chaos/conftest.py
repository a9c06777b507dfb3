"""The tigers and the tiny experiment of tests/runtime, for runs that are hurt on purpose."""

from tests.chaos.commands import calm
from tests.tiny_experiment import here, tigers, tiny

__all__ = ["calm", "here", "tigers", "tiny"]

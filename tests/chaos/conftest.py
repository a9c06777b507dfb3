"""The tigers and the tiny experiment of tests/runtime, for runs that are hurt on purpose."""

from tests.runtime.conftest import here, tigers, tiny

__all__ = ["here", "tigers", "tiny"]

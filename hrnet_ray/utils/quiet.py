"""Libraries that tell of what no user can change, kept quiet for a while."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet_loggers(*loggers: str) -> Iterator[None]:
    """Let these loggers say errors only, and nobody warn."""
    chatty = [getLogger(name) for name in loggers]
    levels = [logger.level for logger in chatty]
    for logger in chatty:
        logger.setLevel(ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(chatty, levels, strict=True):
            logger.setLevel(level)

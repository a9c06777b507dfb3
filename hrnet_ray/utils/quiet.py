"""Suppress warnings of libraries that users cannot act on."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from logging import ERROR, getLogger


@contextmanager
def quiet_loggers(*loggers: str) -> Iterator[None]:
    """Limit these loggers to errors, and suppress warnings, inside the block."""
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

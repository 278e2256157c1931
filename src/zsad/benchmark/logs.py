"""Where what a cell says while it runs is kept."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from zsad.weights.files import disk_error


@contextlib.contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Send log records and warnings to a file; nothing of them reaches the terminal."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    except OSError as error:
        raise disk_error(error, path) from error
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk is said where results go
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric"))]
    kept = [(logger, logger.handlers[:], logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [handler], False
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        for logger, handlers, propagate in kept:
            logger.handlers, logger.propagate = handlers, propagate
        handler.close()
        if path.stat().st_size == 0:
            os.unlink(path)

"""What transformers, and the packages that load quantized weights for it, say while they work: kept, or said once."""

from __future__ import annotations

import importlib
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, suppress

from transformers.utils import logging as transformers_logging

_INTEGRATIONS = ("bitsandbytes", "compressed_tensors", "torchao")
"""Loggers of the packages that load quantized weights."""


class _Collector(logging.Handler):
    """Keeps the text of every record, except transformers' table of missing keys, which we return as data."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if "LOAD REPORT" not in message:
            self.messages.append(message)


class _Once(logging.Filter):
    """Lets every text of a logger pass once: integrations say the same of every module, in every forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        is_new = message not in self._said
        self._said.add(message)
        return is_new


_ONCE = _Once()


@contextmanager
def quiet() -> Iterator[list[str]]:
    """Keep progress bars, log lines and warnings of transformers off the terminal; yield the list that collects them.

    The list is complete once the context is left, and holds no text twice. What warns developers is left out: it
    depends on which module is imported first.
    """
    collector, bars = _Collector(), transformers_logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(name) for name in ("transformers", *_INTEGRATIONS)]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [collector], False
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        # Whoever reports progress by tqdm itself is told by nobody to be quiet.
        with redirect_stderr(io.StringIO()), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield collector.messages
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate
        if bars:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
        kept = [own for own in caught if not issubclass(own.category, DeprecationWarning)]
        texts = [*collector.messages, *(str(own.message) for own in kept)]
        collector.messages[:] = dict.fromkeys(texts)


def prepare_package(distribution: str) -> None:
    """Import what loads a form of checkpoint, so that what it says then is none of a model's warnings.

    From here on, its loggers say every text once.
    """
    name = distribution.replace("-", "_")
    with quiet(), suppress(ImportError):  # whoever loads with it says what is missing
        importlib.import_module(name)
    for logger in (logging.getLogger(own) for own in list(logging.root.manager.loggerDict)):
        if logger.name.partition(".")[0] == name and _ONCE not in logger.filters:
            logger.addFilter(_ONCE)

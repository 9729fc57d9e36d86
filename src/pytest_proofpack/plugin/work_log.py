"""What a process that makes certificates notes down in ``logs/``: items, device, memory, and warnings of libraries."""

from __future__ import annotations

import logging
import os
import resource
import sys
import time
import warnings
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from pytest_proofpack.common.words import printable_lines
from pytest_proofpack.plugin.junit import DEVICE
from pytest_proofpack.runs.journal import Journal, tail, without_secrets

_LIBRARIES = ("", "transformers", "huggingface_hub", "accelerate")
"""Loggers whose warnings are noted: the root's, and those of libraries that keep theirs from it."""
_MOST_WARNINGS = 200
_MOST_LETTERS = 500
_RECENT = 8


class WorkLog:
    """Registered in every process that makes certificates."""

    def __init__(self, journal: Journal, errors: Path | None) -> None:
        """Note nothing yet.

        Args:
            journal: where to note.
            errors: the file that is this process's standard error; None if that is none of ours.
        """
        self._journal = journal
        self._errors = errors
        self._seen: set[tuple[str, str]] = set()
        self._recent: deque[str] = deque(maxlen=_RECENT)
        self._begin = 0.0
        self._errors_begin = 0
        self._outcome = "passed"
        self._device: object = None
        self._handler = _Handler(self)

    def pytest_configure(self) -> None:
        """Listen to the libraries, at once: pytest calls this also for who is registered while a session starts."""
        for name in _LIBRARIES:
            logging.getLogger(name).addHandler(self._handler)

    def pytest_unconfigure(self) -> None:
        """Listen no more."""
        for name in _LIBRARIES:
            logging.getLogger(name).removeHandler(self._handler)
        self._journal.note("process ends", memory=memory())

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """Note that an item begins."""
        self._begin, self._outcome, self._device = time.monotonic(), "passed", None
        if self._errors is not None and self._errors.exists():
            self._errors_begin = self._errors.stat().st_size
        self._journal.note("item begins", item=nodeid)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add to the report of what failed what libraries have warned of, and what was written to standard error."""
        report = yield
        if report.outcome != "passed":
            self._outcome = "expected failure" if hasattr(report, "wasxfail") else report.outcome
        self._device = dict(report.user_properties).get(DEVICE, self._device)
        if report.failed:
            if self._recent:
                report.sections.append(("warnings of libraries", printable_lines(self._recent)))
            said = "" if self._errors is None else tail(self._errors, self._errors_begin)
            if said:
                report.sections.append(("standard error of the worker", printable_lines(said.splitlines())))
        return report

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """Note how an item ended."""
        seconds = round(time.monotonic() - self._begin, 3)
        facts = {"outcome": self._outcome, "seconds": seconds, "device": self._device, "memory": memory()}
        self._journal.note("item ends", item=nodeid, **facts)

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage) -> None:
        """Note a warning, once."""
        self.note_warning(warning_message.category.__name__, str(warning_message.message))

    def note_warning(self, source: str, text: str) -> None:
        """Note a warning that was not noted yet.

        Args:
            source: its category, or the logger that it came through.
            text: what it says; only its beginning is kept.
        """
        key = source, text[:_MOST_LETTERS]
        if key not in self._seen and len(self._seen) < _MOST_WARNINGS:
            self._seen.add(key)
            self._journal.note("warning", source=source, text=key[1])
            self._recent.append(without_secrets(f"{source}: {key[1]}", os.environ))


class _Handler(logging.Handler):
    """Notes what libraries log as a warning, or worse."""

    def __init__(self, log: WorkLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Note a record."""
        self._log.note_warning(record.name, record.getMessage())


def memory() -> dict[str, object]:
    """Return bytes: the most that this process ever had resident, and that torch ever had allocated on each GPU."""
    used: dict[str, object] = {"peak_resident": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
    torch: Any = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        used["peak_gpu"] = [torch.cuda.max_memory_allocated(number) for number in range(torch.cuda.device_count())]
    return used

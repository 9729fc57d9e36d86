"""Signals that end a session early: SIGTERM and SIGHUP do what Ctrl-C does, and a second one only leaves faster.

Where a signal strikes matters. Usually it raises ``KeyboardInterrupt`` on the spot. While a certificate is stored it
waits until that is done; while xdist handles what workers send, its turn comes behind what they had sent before; and
once the session ends it only counts where a pack is written.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pytest_proofpack.plugin.heartbeat import on_the_main_thread
from pytest_proofpack.plugin.live_block import CLEAR_BELOW

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interruption:
    """Takes the signals of a session's controller.

    Attributes:
        signal: name of the signal that ended the session early; None as long as none has.
        advice: what to say where a second one leaves no time for anything else.
        end_workers: ends all workers, and takes what they have sent until then.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._interrupt: Callable[[], None] = self._raise
        self.signal: str | None = None
        self.advice = ""
        self.end_workers: Callable[[], None] = lambda: None

    def install(self) -> None:
        """Take the signals until pytest ends, but for those that this process was told to ignore (``nohup``)."""
        if threading.current_thread() is not threading.main_thread():
            return  # Python handles signals on no other
        for number in SIGNALS:
            before = signal.getsignal(number)
            if before is not signal.SIG_IGN:
                signal.signal(number, self._handle)
                self._config.add_cleanup(partial(_restore, number, before))

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Return a context in which nothing is interrupted; what came meanwhile interrupts at its end."""
        usual, came = self._interrupt, threading.Event()
        self._interrupt = came.set
        try:
            yield
        finally:
            self._interrupt = usual
        if came.is_set():
            usual()

    @contextlib.contextmanager
    def welcome(self) -> Iterator[None]:
        """Return a context that a signal interrupts, after :meth:`end` too."""
        usual, self._interrupt = self._interrupt, self._raise
        try:
            yield
        finally:
            self._interrupt = usual

    def end(self) -> None:
        """Interrupt nothing any more: the session ends."""
        self._interrupt = lambda: None

    @pytest.hookimpl(wrapper=True)
    def pytest_runtestloop(self) -> Iterator[Any]:
        """Let xdist's loop come to what it was sent before a signal, and only then end it."""
        if not self._config.pluginmanager.hasplugin("dsession"):
            return (yield)
        interrupt = on_the_main_thread(self._config, "interrupt", self._raise)
        # A queue's lock may be held where the signal strikes, so somebody else puts the event there.
        self._interrupt = lambda: threading.Thread(target=interrupt, daemon=True).start()
        try:
            return (yield)
        except KeyboardInterrupt:
            if self.signal is not None:
                self.end_workers()
            raise
        finally:
            self._interrupt = self._raise

    def _handle(self, number: int, _frame: object) -> None:
        if self.signal is not None:
            self._leave()
        self.signal = signal.Signals(number).name
        self._interrupt()

    def _raise(self) -> None:
        raise KeyboardInterrupt(self.signal)

    def _leave(self) -> None:
        """End this process now; the system ends its workers with it."""
        with contextlib.suppress(OSError):
            descriptor = sys.__stderr__.fileno() if sys.__stderr__ else 2
            room = CLEAR_BELOW if os.isatty(descriptor) else ""
            os.write(descriptor, f"{room}\n{self.advice}\n".encode())
        os._exit(pytest.ExitCode.INTERRUPTED)


def _restore(number: signal.Signals, handler: Any) -> None:
    signal.signal(number, handler)

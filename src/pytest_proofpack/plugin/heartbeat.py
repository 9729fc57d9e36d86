"""Something done again and again while a session waits for its workers, or works itself."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest


class Heartbeat(threading.Thread):
    """Calls ``beat`` every ``seconds`` until it is stopped."""

    def __init__(self, beat: Callable[[], None], seconds: float) -> None:
        super().__init__(name="proofpack-heartbeat", daemon=True)
        self._beat = beat
        self._seconds = seconds
        self._over = threading.Event()

    def run(self) -> None:
        """Beat."""
        while not self._over.wait(self._seconds):
            self._beat()

    def stop(self) -> None:
        """Beat no more."""
        self._over.set()
        self.join()


def on_the_main_thread(config: pytest.Config, name: str, call: Callable[[], None]) -> Callable[[], None]:
    """Return a function for other threads. The scheduler knows one thread only, that on which xdist handles events.

    Args:
        config: of the session.
        name: of the event, one for each call.
        call: what is done; where there are no workers, on the thread that asks for it.
    """
    dsession = config.pluginmanager.get_plugin("dsession")
    if dsession is None:
        return call
    setattr(dsession, f"worker_proofpack_{name}", call)
    return lambda: dsession.queue.put((f"proofpack_{name}", {}))

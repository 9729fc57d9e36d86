"""The way to the hub: huggingface_hub's client, with bounds of time and size.

Outside of :func:`online` the client of this process is whatever it was before, and offline if the process is.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import httpx2
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import _http as hub_http

from pytest_proofpack.common.words import data_size
from pytest_proofpack.sources.hub_cache import cache_directory

Result = TypeVar("Result")

MAX_ANSWER = 64 * 1024 * 1024
"""Bytes of an answer to a question. The longest lists the files of a repository, a few hundred bytes for each."""

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_BACKOFF = 8.0
_RATE_LIMIT_RESET = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,12})")
_PROXIES = ("ALL_PROXY", "HTTPS_PROXY", "HTTP_PROXY")
_TIMEOUTS = ("connect", "read", "write", "pool")


@dataclass(frozen=True)
class Patience:
    """How long to wait for the hub.

    Attributes:
        timeout: seconds without an answer, or without more of one, that end a try; ``HF_HUB_DOWNLOAD_TIMEOUT`` sets it.
        tries: how often a question is asked before it is given up.
        longest_wait: seconds; a hub that demands a longer pause (``Retry-After``) is given up at once.
    """

    timeout: float = field(default_factory=lambda: float(constants.HF_HUB_DOWNLOAD_TIMEOUT))
    tries: int = 3
    longest_wait: float = 60.0


@dataclass(frozen=True)
class Hub:
    """Which hub to ask, where its files are kept, and how long to wait for it; all as huggingface_hub is set up."""

    endpoint: str = field(default_factory=lambda: constants.ENDPOINT)
    cache: Path = field(default_factory=cache_directory)
    patience: Patience = field(default_factory=Patience)

    @property
    def api(self) -> HfApi:
        """The client for questions."""
        return HfApi(endpoint=self.endpoint)


class HubError(Exception):
    """Why a repository cannot be used, as the end of a sentence that begins with its name."""


def patiently(hub: Hub, ask: Callable[[], Result]) -> Result:
    """Ask until there is an answer that will not change, with growing pauses or those that the hub demands."""
    for attempt in range(1, hub.patience.tries):
        try:
            return ask()
        except HfHubHTTPError as error:
            if error.response.status_code not in _TRANSIENT:
                raise
            pause = _demanded_pause(error.response)
        except httpx2.TransportError:
            pause = None
        time.sleep(min(2.0 ** (attempt - 1), _LONGEST_BACKOFF) if pause is None else pause)
    return ask()


@contextmanager
def online(patience: Patience, max_bytes: int) -> Iterator[None]:
    """Let huggingface_hub's client reach the network, within bounds; afterwards it is what it was before.

    Files that the hub keeps in Xet storage are loaded by a library of its own, which these bounds do not reach; as all
    files, they are compared with their digests afterwards.

    Args:
        patience: how long to wait.
        max_bytes: size of the largest file that is going to be downloaded.
    """
    limits = _Limits(patience, max(max_bytes, MAX_ANSWER))
    with _client_within(limits), _quiet_client():
        yield


@dataclass(frozen=True)
class _Limits:
    """What is demanded of every request and answer: the client itself would wait and read for as long as it lasts."""

    patience: Patience
    max_bytes: int

    def client(self) -> httpx2.Client:
        """Make a client that keeps to the limits."""
        hooks: dict[str, list[Callable[..., None]]] = {
            "request": [self.bound_request],
            "response": [self.bound_response],
        }
        try:
            return httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=self.patience.timeout)
        except (ImportError, ValueError) as error:
            set_here = ", ".join(name for name in _PROXIES if os.environ.get(name) or os.environ.get(name.lower()))
            reason = str(error).partition(". ")[0].partition("\n")[0][:300]
            advice = "unset it, or name an http:// proxy; for socks5:// run: pip install socksio"
            raise HubError(f"the proxy in {set_here or 'your settings'} cannot be used ({reason}); {advice}") from error

    def bound_request(self, request: httpx2.Request) -> None:
        """Give every question a limit of time, and ask for answers that do not unfold into more than was sent."""
        given = request.extensions.get("timeout", {})
        limit = self.patience.timeout
        timeouts = {name: min(given.get(name) or limit, limit) for name in _TIMEOUTS}
        request.extensions = {**request.extensions, "timeout": timeouts}
        request.headers["Accept-Encoding"] = "identity"

    def bound_response(self, response: httpx2.Response) -> None:
        """Refuse an answer that demands too long a pause, or is compressed; stop reading one that is too long."""
        pause = _demanded_pause(response)
        if pause is not None and pause > self.patience.longest_wait:
            raise HubError(
                f"the hub is busy or limits your rate (HTTP {response.status_code}): it asks to wait {pause:.0f} s, "
                f"which is longer than the {self.patience.longest_wait:.0f} s we wait; try again later"
            )
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity" and response.request.method != "HEAD":
            raise HubError(f"the hub answers compressed ({encoding[:40]}, HTTP {response.status_code}), unasked")
        question = "/api/" in response.request.url.path
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _BoundedStream(response.stream, MAX_ANSWER if question else self.max_bytes)


class _BoundedStream(httpx2.SyncByteStream):
    """The body of an answer, up to so many bytes."""

    def __init__(self, stream: httpx2.SyncByteStream, limit: int) -> None:
        self._stream = stream
        self._limit = limit

    def __iter__(self) -> Iterator[bytes]:
        left = self._limit
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise HubError(f"the hub sends more than {data_size(self._limit)}, which nothing that is needed has")
            yield chunk

    def close(self) -> None:
        """Close what it comes from."""
        self._stream.close()


@contextmanager
def _client_within(limits: _Limits) -> Iterator[None]:
    """Let huggingface_hub use our clients, and then again what it used before: factory and open client.

    It has a function to set the factory, but none to ask for it, so both are kept where it keeps them; a test says
    whether the installed version does.
    """
    kept = vars(hub_http)
    with hub_http._CLIENT_LOCK:
        before = {name: kept[name] for name in ("_GLOBAL_CLIENT_FACTORY", "_GLOBAL_CLIENT")}
        kept.update(_GLOBAL_CLIENT_FACTORY=limits.client, _GLOBAL_CLIENT=None)
    try:
        yield
    finally:
        with hub_http._CLIENT_LOCK:
            close_session()  # ours
            kept.update(before)


@contextmanager
def _quiet_client() -> Iterator[None]:
    """Keep warnings of huggingface_hub's to itself: what matters of them is told in our words."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _demanded_pause(response: httpx2.Response) -> float | None:
    """Return the seconds that a busy hub asks to wait, by either of the headers that the client obeys."""
    if response.status_code not in _TRANSIENT:
        return None
    limit = _RATE_LIMIT_RESET.search(response.headers.get("ratelimit", ""))
    text = limit[1] if limit is not None else response.headers.get("Retry-After", "").strip()
    return float(text[:12]) if text.isdecimal() else None

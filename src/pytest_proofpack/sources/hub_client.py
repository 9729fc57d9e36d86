"""The way to the hub: huggingface_hub's client within bounds of time, and what its errors mean in one line.

Outside of :func:`online` the client of this process stays offline.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, constants, get_token, set_client_factory
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import logging as hub_logging

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.sources.hub_cache import cache_directory
from pytest_proofpack.sources.pinning import Source

Result = TypeVar("Result")

_TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})
_LONGEST_BACKOFF = 8.0
_RATE_LIMIT_RESET = re.compile(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*([0-9]{1,12})")


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
def online(patience: Patience) -> Iterator[None]:
    """Let huggingface_hub's client reach the network, within bounds; afterwards it is as offline as before."""

    def bound_timeout(request: httpx2.Request) -> None:
        # The client asks some questions without any limit of time.
        given = request.extensions.get("timeout", {})
        names = ("connect", "read", "write", "pool")
        limits = {name: min(given.get(name) or patience.timeout, patience.timeout) for name in names}
        request.extensions = {**request.extensions, "timeout": limits}

    def bound_pause(response: httpx2.Response) -> None:
        # The client would sleep for as long as the hub tells it to.
        pause = _demanded_pause(response)
        if pause is not None and pause > patience.longest_wait:
            raise HubError(
                f"the hub is busy or limits your rate (HTTP {response.status_code}): it asks to wait {pause:.0f} s, "
                f"which is longer than the {patience.longest_wait:.0f} s we wait; try again later"
            )

    hooks: dict[str, list[Callable[..., Any]]] = {"request": [bound_timeout], "response": [bound_pause]}
    verbosity = hub_logging.get_verbosity()
    set_client_factory(lambda: httpx2.Client(event_hooks=hooks, follow_redirects=True, timeout=patience.timeout))
    hub_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hub_logging.set_verbosity(verbosity)
        set_client_factory(_ordinary_client)


def _ordinary_client() -> httpx2.Client:
    return httpx2.Client(event_hooks={"request": [_refuse_offline]}, follow_redirects=True, timeout=None)


def _refuse_offline(request: httpx2.Request) -> None:
    if constants.is_offline_mode():
        raise OfflineModeIsEnabled(f"Cannot reach {request.url}: offline mode is enabled.")


def _demanded_pause(response: httpx2.Response) -> float | None:
    """Return the seconds that a busy hub asks to wait, by either of the headers that the client obeys."""
    if response.status_code not in _TRANSIENT:
        return None
    limit = _RATE_LIMIT_RESET.search(response.headers.get("ratelimit", ""))
    text = limit[1] if limit is not None else response.headers.get("Retry-After", "").strip()
    return float(text[:12]) if text.isdecimal() else None


REFUSALS = (
    HubError,
    ConfigurationError,
    HFValidationError,
    httpx2.HTTPError,
    OSError,
    ValueError,
    KeyError,
    TypeError,
)
"""What the client raises for hubs, networks and answers that are not what they should be."""


def reason_of(error: BaseException, source: Source, hub: Hub) -> str:
    """Return why a source cannot be used, in one line without a full stop."""
    if isinstance(error, (HubError, ConfigurationError)):
        return str(error).rstrip(".")
    if isinstance(error, HfHubHTTPError):
        return _statusreason_of(error, source, hub)
    patience = hub.patience
    if isinstance(error, httpx2.TimeoutException):
        return f"{hub.endpoint} did not answer within {patience.timeout:g} s, {patience.tries} times"
    if isinstance(error, httpx2.TransportError):
        return f"{hub.endpoint} cannot be reached, or breaks off ({_first_line(error)})"
    if isinstance(error, HFValidationError):
        return f"not the id of a repository ({_first_line(error)})"
    if error.__cause__ is not None and isinstance(error, OSError):
        return reason_of(error.__cause__, source, hub)
    if isinstance(error, OSError):
        return f"the download failed ({_first_line(error)})"
    return f"{hub.endpoint} sent an answer that makes no sense ({type(error).__name__}: {_first_line(error)})"


def _statusreason_of(error: HfHubHTTPError, source: Source, hub: Hub) -> str:
    """Return what an HTTP status means for a source."""
    status = error.response.status_code
    token = "your token was not granted access" if get_token() else "you are not logged in"
    if isinstance(error, GatedRepoError):
        page = f"{hub.endpoint}/{'datasets/' if source.text is not None else ''}{source.id}"
        return f"gated, and {token}; accept its conditions at {page}, then run: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {source.asked!r}" if source.asked else "has no default branch"
    if isinstance(error, RepositoryNotFoundError) or status in {401, 403}:
        return f"not there, or private ({token}; HTTP {status}); check the id, or run: hf auth login"
    if status == 429:
        return f"the hub limits your rate (HTTP 429), also after {hub.patience.tries} tries; try again later"
    if status >= 500:
        return f"the hub fails (HTTP {status}), also after {hub.patience.tries} tries; try again later"
    return f"the hub answers HTTP {status} ({_first_line(error)})"


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0][:300]

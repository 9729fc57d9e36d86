"""What the hub's and its client's errors mean, in one line each."""

from __future__ import annotations

import httpx2
from huggingface_hub import get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from pytest_proofpack.common.words import error_line, first_line
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.sources.hub_client import Hub, HubError
from pytest_proofpack.sources.source import Source

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
        return _reason_of_status(error, source, hub)
    patience = hub.patience
    if isinstance(error, httpx2.TimeoutException):
        return f"{hub.endpoint} did not answer within {patience.timeout:g} s, {patience.tries} times"
    if isinstance(error, httpx2.TransportError):
        return f"{hub.endpoint} cannot be reached, or breaks off ({first_line(error)})"
    if isinstance(error, HFValidationError):
        return f"not the id of a repository ({first_line(error)})"
    if error.__cause__ is not None and isinstance(error, OSError):
        return reason_of(error.__cause__, source, hub)
    if isinstance(error, OSError):
        return f"the download failed ({first_line(error)})"
    return f"{hub.endpoint} sent an answer that makes no sense ({error_line(error)})"


def _reason_of_status(error: HfHubHTTPError, source: Source, hub: Hub) -> str:
    """Return what an HTTP status means for a source."""
    status = error.response.status_code
    token = "your token was not granted access" if get_token() else "you are not logged in"
    if isinstance(error, GatedRepoError):
        page = f"{hub.endpoint}/{'datasets/' if source.text is not None else ''}{source.id}"
        return f"gated, and {token}; accept its conditions at {page}, then run: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"has no revision {source.revision!r}" if source.revision else "has no default branch"
    if isinstance(error, RepositoryNotFoundError) or status in {401, 403}:
        return f"not there, or private ({token}; HTTP {status}); check the id, or run: hf auth login"
    if status == 429:
        return f"the hub limits your rate (HTTP 429), also after {hub.patience.tries} tries; try again later"
    if status >= 500:
        return f"the hub fails (HTTP {status}), also after {hub.patience.tries} tries; try again later"
    return f"the hub answers HTTP {status} ({first_line(error)})"

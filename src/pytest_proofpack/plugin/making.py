"""How an item comes to its certificate: it is made now, or an earlier session has made it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pytest
from _pytest.outcomes import Failed

from pytest_proofpack.common.shortage import what_ran_out
from pytest_proofpack.common.strict_json import JsonObject, compact_json, parse_json
from pytest_proofpack.common.words import message_lines
from pytest_proofpack.errors import EvaluationError, ProofPackError
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.plugin.junit import REUSED

if TYPE_CHECKING:
    from pytest_proofpack.engine.baseline import Baseline
    from pytest_proofpack.engine.certify import Subject
    from pytest_proofpack.engine.workbench import Workbench
    from pytest_proofpack.runs.run import Run

REQUEST = "proofpack_request"
"""The fixture whose users run once per certificate of the run."""
TUNING_REQUEST = "proofpack_tuning"
"""The fixture whose users run once per clean edit that the run tunes."""
REPORT_ATTRIBUTE = "proofpack_certificate"
"""Attribute of a call report that carries the certificate to the controller, as one canonical JSON text."""
REPEAT_ATTRIBUTE = "proofpack_repeat"
"""Attribute of such a report that says which repeat the certificate is; 0 where it is none."""
TUNING_ATTRIBUTE = "proofpack_tuning"
"""Attribute of the report of an item that tuned an edit: what came of it, as one canonical JSON text."""
MADE = pytest.StashKey[Mapping[str, object]]()
"""What an item made: attributes for the report of its call."""
DELIVERED: pytest.StashKey[dict[str, Delivered]] = pytest.StashKey()
"""Of the session's config: by the ids of requests, what processes elsewhere have made of them."""
WORKBENCH: pytest.StashKey[Workbench] = pytest.StashKey()
"""Of the session's config: what the fixtures work with."""


def test_of(run: Run) -> str:
    """Return the name of the suite's test that a run consists of."""
    return "test_tuning" if run.tunes else "test_certificate"


def nodeids(run: Run) -> list[str]:
    """Return the node ids of a run's items, in their order."""
    prefix = f"proofpack/{run.suite.name}::{test_of(run)}"
    # pytest escapes what is not ASCII in an id in just this way
    return [f"{prefix}[{request.id.encode('unicode_escape').decode('ascii')}]" for request in run.items]


class Unexpected(Failed):
    """An item's failure whose certificate came to be and is not what its scenario demands.

    For an informational scenario it is expected; whatever else goes wrong there is an error like any other.
    """

    __module__ = "builtins"  # for pytest to print the finding alone


@contextlib.contextmanager
def shortage_told(bench: Workbench, request: CertificateRequest) -> Iterator[None]:
    """Say what memory ran out for, and drop what is loaded: what comes next begins with all there is.

    A forward pass that ran out of memory has said so itself, in an error of ours.

    Raises:
        EvaluationError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError, EvaluationError) as error:
        shortage = what_ran_out(error)
        if shortage is None:
            raise
        bench.release()
        if isinstance(error, EvaluationError):
            raise
        raise EvaluationError(f"{request.id}: {shortage}") from error


class Making:
    """The way to a certificate that is made now: load the model, edit it, measure it."""

    def __init__(self, bench: Workbench, request: CertificateRequest) -> None:
        self._bench = bench
        self._request = request

    def baseline(self) -> Baseline:
        """Return the loaded, unedited model."""
        with shortage_told(self._bench, self._request):
            return self._bench.baseline(self._request)

    @contextlib.contextmanager
    def edited(self, baseline: Baseline) -> Iterator[Subject]:
        """Give the edited model: the baseline until the context ends, or a checkpoint of its own."""
        from pytest_proofpack.engine.certify import edited_subject, loaded_subject

        run, request = self._bench.run, self._request
        with shortage_told(self._bench, self._request):
            if not request.loads_its_own:
                with edited_subject(run, baseline, request) as subject:
                    yield subject
            else:
                yield loaded_subject(run, baseline, request, self._bench.checkpoint(request, baseline))

    def certificate(self, subject: Subject, item: pytest.Item) -> JsonObject:
        """Measure the edited model and leave the certificate for the item's report."""
        certificate = self.measured(subject)
        item.stash[MADE] = {REPORT_ATTRIBUTE: compact_json(certificate), REPEAT_ATTRIBUTE: self._request.repeat}
        return certificate

    def measured(self, subject: Subject) -> JsonObject:
        """Measure the edited model and return the certificate."""
        from pytest_proofpack.engine.certify import certify

        with shortage_told(self._bench, self._request):
            certificate = certify(self._bench.run, subject)
        self._bench.require_unchanged(self._request)
        return certificate


class Delivered:
    """The way to a certificate that a process elsewhere has made, or has failed to make: nothing is loaded."""

    def __init__(self, text: str | None, failure: str | None, repeat: int) -> None:
        """Take what came.

        Args:
            text: the certificate, as one JSON text; None if there is none.
            failure: why there is none.
            repeat: which repeat it is; 0 for none.
        """
        self._text = text
        self._failure = failure
        self._repeat = repeat

    def baseline(self) -> None:
        """Return nothing.

        Raises:
            EvaluationError: the certificate could not be made.
        """
        if self._text is None:
            raise EvaluationError(str(self._failure))

    def edited(self, _baseline: None) -> contextlib.AbstractContextManager[None]:
        """Return a context with nothing."""
        return contextlib.nullcontext()

    def certificate(self, _subject: None, item: pytest.Item) -> JsonObject:
        """Return the certificate, and leave it for the item's report."""
        assert self._text is not None
        item.stash[MADE] = {REPORT_ATTRIBUTE: self._text, REPEAT_ATTRIBUTE: self._repeat}
        return parse_json(self._text.encode(), "certificate from elsewhere")


class Reusing:
    """The way to a certificate that the run directory holds and the controller has checked: nothing is loaded."""

    def __init__(self, certificate: JsonObject) -> None:
        self._certificate = certificate

    def baseline(self) -> None:
        """Return nothing."""

    def edited(self, _baseline: None) -> contextlib.AbstractContextManager[None]:
        """Return a context with nothing."""
        return contextlib.nullcontext()

    def certificate(self, _subject: None, item: pytest.Item) -> JsonObject:
        """Return what there is of the certificate; the report carries none."""
        item.user_properties.append((REUSED, True))
        return self._certificate


def certificate_source(config: pytest.Config, request: CertificateRequest) -> Making | Reusing | Delivered:
    """Return the way to a request's certificate: made now, or reused."""
    delivered = config.stash.get(DELIVERED, {}).get(request.id)
    if delivered is not None:
        return delivered
    bench = config.stash[WORKBENCH]
    reused = bench.run.reused.get(request.id)
    return Making(bench, request) if reused is None else Reusing(reused)


@contextlib.contextmanager
def readable_errors() -> Iterator[None]:
    """Show our own errors, and that something ran out, as a message alone, without the traceback that led to it."""
    try:
        yield
    except ProofPackError as error:
        raise _failure(str(error)) from None
    except (OSError, MemoryError, RuntimeError) as error:
        shortage = what_ran_out(error)
        if shortage is None:
            raise
        raise _failure(f"{shortage} ({type(error).__name__}: {error})") from None


def _failure(text: str) -> BaseException:
    return pytest.fail.Exception("\n".join(message_lines(text)), pytrace=False)

"""Evidence that fits its schema and makes no sense: where Python fails on it, that is a finding and no traceback."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from pytest_proofpack.errors import FormatError

NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What Python raises of a document's values: something is missing, of another type, or beyond all numbers."""


@contextmanager
def making_sense(what: str = "") -> Iterator[None]:
    """Judge documents that fit their schemas, whatever they hold. Absurd numbers may overflow unheard.

    Args:
        what: what is judged, as the message begins.

    Raises:
        FormatError: what they hold makes no sense, so that Python fails on it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            yield
    except NONSENSE as error:
        raise FormatError(f"{what}does not make sense: {type(error).__name__}: {error}") from error

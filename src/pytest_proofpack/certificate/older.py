"""What certificates of an older format were not judged by: read off the guards' records, so no list goes stale."""

from __future__ import annotations

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.formats import Format


def gates_lacking(form: Format) -> tuple[str, ...]:
    """Return the flags of the package's gates that a format does not have, in the order of their guards."""
    known = {gate.flag for judge in criteria(form.guards) for gate in judge.gates}
    return tuple(gate.flag for judge in criteria() for gate in judge.gates if gate.flag not in known)


def lacking_words(form: Format) -> str:
    """Say what certificates of a format were not judged by, after its name; empty of one that lacks nothing."""
    gates = gates_lacking(form)
    parts = [f"lacks the gates {', '.join(gates)}"] if gates else []
    parts += [] if form.inventory else ["does not ask whether the guards judged the whole model"]
    return " and ".join(parts)


def format_words(form: Format) -> str:
    """Name a format that lacks gates, and say which; empty of one that lacks nothing."""
    lacking = lacking_words(form)
    return f"format {form.number}, which {lacking}" if lacking else ""

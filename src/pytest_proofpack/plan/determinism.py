"""What a determinism mode comes to on a kind of device."""

from __future__ import annotations


def reached_determinism(requested: str, device: str) -> str:
    """Return the mode that is reached where ``throughput`` or ``strict`` is asked for: a CPU is always strict.

    On a CPU every process computes with one thread, so the same numbers come out whatever was asked for.

    Args:
        requested: ``throughput`` or ``strict``.
        device: torch's kind of device: ``cpu``, ``cuda``, ``mps``.
    """
    return "strict" if device == "cpu" else requested

"""Words for people: text that is safe to show, paths as one would type them, sizes in decimal units."""

from __future__ import annotations

from pathlib import Path


def printable(text: str, also: str = "") -> str:
    """Return ``text`` with every character that could mislead a reader or a terminal as a backslash escape.

    Control characters, line breaks, direction marks, lone surrogates and exotic spaces are not printable in
    Python's sense; ``also`` names further characters to escape.
    """
    if text.isprintable() and not any(character in text for character in also):
        return text
    return "".join(
        _escaped(character) if character in also or not character.isprintable() else character for character in text
    )


def _escaped(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def shown(path: Path) -> str:
    """Return a path as a person in the current directory would type it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def data_size(size: float) -> str:
    """Return bytes of files for people, in decimal units: ``14.5 GB``. For memory there is :func:`memory_size`."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"


def memory_size(size: float) -> str:
    """Return bytes of memory for people, in GiB (2^30 bytes), the unit of ``--proofpack-gpu-memory``: ``14.5 GiB``.

    One decimal; below 1 GiB two significant digits.
    """
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**30:.2g} GiB"

"""Where the documentation lies, for messages and for files that are written: it is no part of what is installed."""

from __future__ import annotations

PAGES = "https://github.com/pytest-proofpack/pytest-proofpack/tree/main/docs"
"""As ``pyproject.toml`` has it under ``[project.urls]``."""


def page(name: str) -> str:
    """Return the address of a page of ``docs/``."""
    return f"{PAGES}/{name}"

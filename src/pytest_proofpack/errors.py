"""The error tree. Every message says what happened, to which file or model, and what to do about it."""

from __future__ import annotations


class ProofPackError(Exception):
    """Base of every error this package raises on purpose."""


class ConfigurationError(ProofPackError):
    """Something the user supplied cannot be used: an option, a suite file, a model directory, a text.

    Raised before any long work starts; pytest exits with status 4 (usage error).
    """


class EvaluationError(ProofPackError):
    """A measurement could not be made, for example because the baseline's loss is not finite.

    The certificate concerned does not come to be; the run ends as FAIL with exit status 1.
    """


class RestoreError(EvaluationError):
    """An edited model could not be made what it was before. Nothing may be measured on it any more."""


class FormatError(ProofPackError):
    """A certificate, manifest or other stored document is not what its format demands."""


class PackError(ProofPackError):
    """A pack could not be written or signed. Nothing is left under the pack's final name."""


class StorageError(ProofPackError, OSError):
    """A file could not be written: no space, no inodes, no permission, no directory any more.

    Whatever was made for it is lost, and nothing else.
    """


class VerificationError(ProofPackError):
    """A pack does not prove what it claims."""

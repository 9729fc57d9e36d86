"""Certify what an edit did to a language model: signed, recomputable evidence, as a pytest plugin.

The names below are the public ones (docs/api.md); every other module and name may change with any version. They are
imported when they are first used: pytest imports this package on every start.
"""

__version__ = "0.2.0.dev0"

__all__ = [
    "Certificate",
    "ConfigurationError",
    "EvaluationError",
    "FormatError",
    "Pack",
    "PackError",
    "ProofPackError",
    "Status",
    "StepResult",
    "VerificationError",
    "VerificationReport",
    "__version__",
    "load_pack",
    "verify",
]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pytest_proofpack.errors import (
        ConfigurationError,
        EvaluationError,
        FormatError,
        PackError,
        ProofPackError,
        VerificationError,
    )
    from pytest_proofpack.pack.public import Certificate, Pack, load_pack, verify
    from pytest_proofpack.pack.verify import Status, StepResult, VerificationReport
else:
    _MODULES = {
        **dict.fromkeys(("Certificate", "Pack", "load_pack", "verify"), "pack.public"),
        **dict.fromkeys(("Status", "StepResult", "VerificationReport"), "pack.verify"),
        **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "errors"),
    }

    def __getattr__(name):
        """Import a public name."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
        return value

    def __dir__():
        """List the public names."""
        return sorted({*globals(), *__all__})

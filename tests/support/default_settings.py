"""Settings as no option, variable or ini file leaves them."""

from __future__ import annotations

from types import SimpleNamespace

from pytest_proofpack.config.settings import Settings, resolve


class _NothingGiven:
    option = SimpleNamespace()

    def getini(self, _name: str) -> None:
        return None


DEFAULTS: Settings = resolve(_NothingGiven(), {})

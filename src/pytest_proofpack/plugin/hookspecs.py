"""Hooks that this plugin calls: how edits, guards and texts are added from outside, and how results are listened to.

A module that implements one of them is found by an entry point in the group ``pytest_proofpack``, by ``-p module``, or
by ``extensions = ["file.py"]`` in a suite file. See docs/extending.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pytest_proofpack.common.strict_json import JsonObject
    from pytest_proofpack.pack.write import PackResult
    from pytest_proofpack.plan.records import CertificateRequest
    from pytest_proofpack.runs.extensions import Registries


@pytest.hookspec()
def pytest_proofpack_register(registry: Registries) -> None:
    """Add to what can be certified, and how.

    Called once in the controller and once in every worker, before suite and options are resolved. Whatever is added
    is taken out again when the session ends. Name, version and digest of every module that implements this hook stand
    in every certificate and in the pack.

    :param registry: has ``guards``, ``edits``, ``faults``, ``tools``, ``text_sources``, ``checkpoint_formats``,
        ``signers`` and ``attestors``, each with a method ``register(record)``.
    """


@pytest.hookspec()
def pytest_proofpack_certificate(certificate: JsonObject, request: CertificateRequest) -> None:
    """Called in the controller after a certificate was stored in the run directory.

    Certificates that an earlier session has made, and repeats, are not stored and don't come by.

    :param certificate: a copy: whatever is done to it changes nothing that is stored.
    :param request: what was asked for: the model, the scenario, the run's number.
    """


@pytest.hookspec()
def pytest_proofpack_verdict(verdict: JsonObject, pack: PackResult | None) -> None:
    """Called in the controller at the end, after the verdict was written, and the pack if there is one.

    :param verdict: a copy of ``reports/final_verdict.json``.
    :param pack: where the pack is, the digest of its manifest and who signed it; None if none was written.
    """

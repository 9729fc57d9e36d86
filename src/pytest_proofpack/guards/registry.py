"""The guards. One record each, in the module of the guard; a certificate names failed gates in this order."""

from __future__ import annotations

from pytest_proofpack.guards.answers import ANSWERS_GUARD
from pytest_proofpack.guards.baseline_quality import BASELINE_QUALITY_GUARD
from pytest_proofpack.guards.direction import DIRECTION_GUARD
from pytest_proofpack.guards.distribution import DISTRIBUTION_GUARD
from pytest_proofpack.guards.generation import GENERATION_GUARD
from pytest_proofpack.guards.guard import GuardRegistry
from pytest_proofpack.guards.invariants import INVARIANTS_GUARD
from pytest_proofpack.guards.label import LABEL_GUARD
from pytest_proofpack.guards.moe import MOE_GUARD
from pytest_proofpack.guards.overhead import OVERHEAD_GUARD
from pytest_proofpack.guards.places import PLACES_GUARD
from pytest_proofpack.guards.readings import READINGS_GUARD
from pytest_proofpack.guards.rmt import RMT_GUARD
from pytest_proofpack.guards.spectral import SPECTRAL_GUARD
from pytest_proofpack.guards.variance import VARIANCE_GUARD

BUILTIN = (
    OVERHEAD_GUARD,
    INVARIANTS_GUARD,
    SPECTRAL_GUARD,
    RMT_GUARD,
    VARIANCE_GUARD,
    MOE_GUARD,
    DISTRIBUTION_GUARD,
    LABEL_GUARD,
    BASELINE_QUALITY_GUARD,
    GENERATION_GUARD,
    DIRECTION_GUARD,
    ANSWERS_GUARD,
    PLACES_GUARD,
    READINGS_GUARD,
)

GUARDS = GuardRegistry("guard", "pytest_proofpack.guards.registry:BUILTIN")

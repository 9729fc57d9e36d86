"""The method of xdist's worker that our loop replaces is the one that was read."""

from __future__ import annotations

import hashlib
import inspect

from xdist.remote import WorkerInteractor

READ = "505c1f9675c2e3c6aa515d4907f0b3047f2e2115815b5ac8f346b56337ce4bfc"
"""Digest of the source of ``run_one_test`` in pytest-xdist 3.8.0."""


def test_xdist_runs_an_item_as_it_did_when_it_was_read() -> None:
    found = hashlib.sha256(inspect.getsource(WorkerInteractor.run_one_test).encode()).hexdigest()
    assert found == READ, (
        "pytest-xdist's WorkerInteractor.run_one_test is another one now, and plugin/xdist_worker.py replaces it. Read "
        "it; carry over into WorkerLoop._run_one what is new; see that fits() still tells the truth; run "
        f"tests/plugin/test_scheduling.py; then write {found} here."
    )

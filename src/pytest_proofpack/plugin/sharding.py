"""``--proofpack-shard=K/N``: the run that is asked for becomes the K-th part of it, the same one in every process."""

from __future__ import annotations

from dataclasses import replace

from pytest_proofpack.certificate.repeats import repeated_request
from pytest_proofpack.config.options import shard_numbers
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.runs.run import Run


def sharded(asked: Run) -> Run:
    """Return the share of a run that the settings ask for; the run as it is where they ask for no shard.

    What is repeated is repeated in its own shard, and a shard has no pack.

    Raises:
        ConfigurationError: there are more shards than certificates, or parameters of clean edits have yet to be found.
    """
    shard = asked.settings.shard
    if shard is None:
        return asked
    from pytest_proofpack.scheduling.shards import shares

    if asked.tunes or asked.untuned:
        raise ConfigurationError(
            f"--proofpack-shard={shard}: parameters are found once, for all shards, before the first of them: "
            "tune with --proofpack-mode=tune --proofpack-tune=auto, without --proofpack-shard, and give every shard "
            "the file that it writes, by --proofpack-tuned-edit-params."
        )
    number, count = shard_numbers(shard)
    if count > len(asked.plan.requests):
        raise ConfigurationError(
            f"--proofpack-shard={shard}: the run has {len(asked.plan.requests)} certificates, and a shard has at least "
            "one. Ask for fewer shards."
        )
    share = shares(asked, count)[number - 1]
    settings = asked.settings
    if settings.repeats and repeated_request(asked.plan.requests).id not in share:
        settings = replace(settings, repeats=0)
    return replace(asked, settings=settings, share=share, pack_dir=None)

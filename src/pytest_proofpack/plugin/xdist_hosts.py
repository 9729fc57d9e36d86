"""Where xdist's workers run: on this host or on another. One definition for everybody who asks."""

from __future__ import annotations

from typing import Any

import pytest


def host_of(spec: Any) -> str:
    """Return the host of a worker, by the spec that xdist starts it by; empty for this one.

    One that is started through another worker's host (``via``) is there, whatever else its spec says.
    """
    host: str = spec.ssh or spec.vagrant_ssh or spec.socket or spec.via or ""
    return host


def all_here(config: pytest.Config) -> bool:
    """Tell whether all workers run on this host, as they do where there are none."""
    return not any(map(host_of, worker_specs(config)))


def any_here(config: pytest.Config) -> bool:
    """Tell whether there are workers, and one at least runs on this host."""
    return config.pluginmanager.hasplugin("dsession") and not all(map(host_of, worker_specs(config)))


def worker_specs(config: pytest.Config) -> list[Any]:
    """Return what xdist was told of every worker; nothing where there are none."""
    if not getattr(config.option, "tx", None):
        return []
    import execnet
    from xdist.workermanage import parse_tx_spec_config

    return [execnet.XSpec(text) for text in parse_tx_spec_config(config)]


def several_processes(config: pytest.Config) -> bool:
    """Tell whether certificates are made by more than one process; xdist was told ``popen`` once for each."""
    return config.pluginmanager.hasplugin("dsession") and config.option.tx != ["popen"]

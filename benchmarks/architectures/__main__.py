"""Sweep over every decoder that transformers can build, small.

    python -m benchmarks.architectures --results build/architectures --page docs/architectures.md
    python -m benchmarks.architectures lfm2 dbrx

What was found of an architecture is kept in a file of the results' directory and not sought again, so a sweep can be
stopped; with names, those are sought again. About three seconds each on a free core.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from benchmarks.architectures.configs import HYBRIDS, POPULAR, VARIANTS
from benchmarks.architectures.page import page
from benchmarks.architectures.sweep import CHIEF, Finding, examine

_HALF = "bf16"


def main() -> None:
    """Sweep, print a line for each architecture, and write the page if told."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="architectures or variants; all unless told")
    parser.add_argument("--results", type=Path, default=Path("build/architectures"), help="a directory")
    parser.add_argument("--page", type=Path, help="the page to write")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    options.results.mkdir(parents=True, exist_ok=True)
    known = [*POPULAR, *(name for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES if name not in POPULAR), *VARIANTS]
    if unknown := set(options.names) - set(known):
        sys.exit(f"transformers {transformers.__version__} knows no {', '.join(sorted(unknown))}")
    for name in options.names or known:
        for half in (False, True) if name in HYBRIDS else (False,):
            _seek(name, options.results, again=bool(options.names), half=half)
    if options.page:
        found = _read(options.results)
        in_half = {name.removesuffix(f".{_HALF}"): own for name, own in found.items() if name.endswith(_HALF)}
        options.page.write_text(page({name: own for name, own in found.items() if not name.endswith(_HALF)}, in_half))


def _seek(name: str, results: Path, *, again: bool, half: bool) -> None:
    file = results / f"{name}.{_HALF}.json" if half else results / f"{name}.json"
    if file.exists() and not again:
        return
    whole = name in POPULAR and not half
    found = examine(name, dtype=torch.bfloat16 if half else torch.float32, certified=None if whole else CHIEF)
    file.write_text(json.dumps(asdict(found), indent=1))
    words = found.refused or found.not_built or ("works wholly" if found.whole else "works in part")
    print(f"{name}{' in bfloat16' if half else ''}: {words}", flush=True)


def _read(results: Path) -> dict[str, Finding]:
    files = sorted(results.glob("*.json"))
    return {file.name.removesuffix(".json"): Finding(**json.loads(file.read_text())) for file in files}


if __name__ == "__main__":
    main()

"""Good and harmful checkpoints of a model, each certified as a subject of its own: which gates and warnings see what.

    python -m benchmarks.good_and_harmful --model DIR [--model DIR ...] --text FILE [--only NAME ...] [--json FILE]

For models as training/train_small.py makes them (Llama, GPT-2, Qwen2, Mixtral). A row is one edit; a cell holds the
perplexity ratio, the mean KL divergence, the signals that failed a gate, and the direction guard's smallest cosine of a
matrix and of a sublayer's answers. The checkpoints are written to a temporary directory, one at a time. An edit that
trains does so on the last windows of the text, which are cut off before certifying.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.certificate_time import DEFAULTS
from benchmarks.good_edits import Edit, good_for
from benchmarks.harmful_edits import harmful_for
from benchmarks.model_parts import parts_of
from pytest_proofpack.certificate.derive import INPUTS
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.engine.baseline import Baseline, load_baseline
from pytest_proofpack.engine.certify import certify, loaded_subject
from pytest_proofpack.engine.edited_checkpoint import load_checkpoint
from pytest_proofpack.engine.prepared import prepare_model, prepare_subject
from pytest_proofpack.guards.guard import SIGNALS
from pytest_proofpack.plan.records import CertificateRequest
from pytest_proofpack.runs.run import Run, resolve_run

WINDOW = 128
_TRAINING_SHARE = 0.15


def divided(text: Path, folder: Path) -> tuple[Path, str]:
    """Return a file with the first part of a text, to certify on, and the rest, to train on."""
    whole = text.read_text(encoding="utf-8")
    cut = whole.find("\n", int(len(whole) * (1 - _TRAINING_SHARE)))
    kept = folder / "text.txt"
    kept.write_text(whole[:cut], encoding="utf-8")
    return kept, whole[cut:]


def save_edited(model: str, edit: Edit, ids: torch.Tensor, target: Path) -> None:
    """Write a checkpoint: the model, edited."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model)
    loaded.eval().requires_grad_(requires_grad=False)
    with torch.no_grad():
        edit(parts_of(loaded), ids)
    loaded.save_pretrained(target)
    for file in Path(model).iterdir():  # whatever else there is: saved anew, a tokenizer may be another one
        if not (target / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, target)


def certificate_of(run: Run, baseline: Baseline, subject: Path) -> JsonObject:
    """Return the certificate of a checkpoint."""
    planned = run.requests[-1]
    assert planned.subject is not None
    spec = replace(planned.subject, id=str(subject), path=subject)
    request: CertificateRequest = replace(planned, subject=spec)
    prepared = prepare_subject(spec, baseline.prepared)
    checkpoint = load_checkpoint(run, baseline, prepared)
    return certify(run, loaded_subject(run, baseline, request, checkpoint))


def summary(certificate: JsonObject) -> JsonObject:
    """Return what the table shows of a certificate."""
    outcome, direction = certificate["outcome"], certificate["direction"]
    return {
        "ratio": certificate["primary_metric"].get("ratio_vs_baseline"),
        "kl": certificate["distribution"]["kl_mean"],
        "signals": "".join(own.letter if own.name in outcome["signals"] else "." for own in SIGNALS),
        "failed": outcome["failed_gates"],
        "warnings": [name for name in outcome["warnings"] if name != INPUTS or _is_odd(certificate)],
        "cosine": direction["cosine_min"],
        "answers": direction["response_min"],
        "turned": direction["turned"],
        "lost": direction["lost"],
        "exchanged": direction["rows_exchanged"],
        "own": _own_answers(direction),
    }


def _is_odd(certificate: JsonObject) -> bool:
    """Tell whether something is odd about the subject's files; what is about the baseline's is no edit's fault."""
    return any(text.startswith("subject:") for text in certificate["meta"]["inputs"]["warnings"])


def _own_answers(direction: Mapping[str, Any]) -> list[float | None]:
    """Return the smallest answer of a sublayer that holds a turned matrix, and the largest."""
    responses = direction["responses"]
    found = [
        value
        for path, value in responses.items()
        if any(name.startswith(f"{path}.") for name in direction["turned_names"])
    ]
    return [min(found), max(found)] if found and None not in found else []


def measure(model: str, text: Path, only: list[str]) -> dict[str, JsonObject]:
    """Return the summaries by edit, printing them as they come."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        kept, rest = divided(text, folder)
        tokens = AutoTokenizer.from_pretrained(model)(rest, verbose=False)["input_ids"]
        ids = torch.tensor(tokens[: len(tokens) // WINDOW * WINDOW]).view(-1, WINDOW)
        parts = parts_of(AutoModelForCausalLM.from_pretrained(model))
        kinds: dict[str, Mapping[str, Edit]] = {"good": good_for(parts), "harmful": harmful_for(parts)}
        settings = replace(
            DEFAULTS,
            suite=None,
            baseline=model,
            subject=(model,),
            runs={"calibration": 1, "clean": 1},
            text=str(kept),
            out=str(folder / "run"),
        )
        run = resolve_run(settings)
        baseline = load_baseline(run, prepare_model(run, run.suite.models[0]))
        found = {}
        for kind, edits in kinds.items():
            for name, edit in edits.items():
                if only and name not in only:
                    continue
                target = folder / "subject" / name
                save_edited(model, copy.copy(edit), ids, target)
                row = {"kind": kind, **summary(certificate_of(run, baseline, target))}
                found[name] = row
                for file in target.iterdir():
                    file.unlink()
                sys.stdout.write(f"{kind:<8}{name:<20}{json.dumps(row)}\n")
                sys.stdout.flush()
        return found


def cell(row: JsonObject | None) -> str:
    """Return a cell of the table."""
    if row is None:
        return ""
    ratio, kl = row["ratio"], row["kl"]
    numbers = "-, -" if ratio is None or kl is None else f"{ratio:.4g}, {kl:.3f}"
    warned = f" ({', '.join(row['warnings'])})" if row["warnings"] and not row["failed"] else ""
    return f"{numbers}, `{row['signals']}`{warned}"


def print_table(found: Mapping[str, Mapping[str, JsonObject]]) -> None:
    """Print the table in Markdown, and the counts below it."""
    names = list(dict.fromkeys(name for rows in found.values() for name in rows))
    lines = [f"| edit | {' | '.join(found)} |", f"|---|{'---|' * len(found)}"]
    lines += [f"| `{name}` | {' | '.join(cell(rows.get(name)) for rows in found.values())} |" for name in names]
    rows = [row for own in found.values() for row in own.values()]
    good, harmful = ([row for row in rows if row["kind"] == kind] for kind in ("good", "harmful"))
    caught, twice = (sum(len(row["signals"].replace(".", "")) >= least for row in harmful) for least in (1, 2))
    lines += [
        "",
        f"good: {sum(not row['failed'] for row in good)} of {len(good)} pass, "
        f"{sum(bool(row['warnings']) for row in good)} with a warning, "
        f"{sum('direction_kept' in row['failed'] for row in good)} stopped by the direction guard",
        f"harmful: {sum(bool(row['failed']) for row in harmful)} of {len(harmful)} fail, {caught} seen by a signal, "
        f"{twice} by two",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", required=True, help="model directory; may be given again")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--only", nargs="*", default=[], help="names of edits")
    parser.add_argument("--json", type=Path, help="write everything that was read there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = {Path(model).name: measure(model, options.text, options.only) for model in options.model}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    print_table(found)


if __name__ == "__main__":
    main()

"""The pages of docs/reference/, made from the code: `python .ci/reference.py` writes them, and a test compares.

They are kept in the repository so that they are read on the forge too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pytest_proofpack.certificate.criteria import criteria
from pytest_proofpack.certificate.schema import certificate_schema
from pytest_proofpack.common.schemas import packaged_schema
from pytest_proofpack.common.strict_json import parse_json
from pytest_proofpack.config.options import OPTIONS, Option
from pytest_proofpack.plan.edit_kinds import EDITS, FAULTS
from pytest_proofpack.plan.tool_edits import TOOLS

ROOT = Path(__file__).parent.parent
TARGET = ROOT / "docs/reference"
OPTIONS_INTRODUCTION = """\
Values are looked up on the command line, then in the environment, then in the ini file (`[tool.pytest.ini_options]`
in `pyproject.toml`, or `pytest.ini`), then the default holds. Write options as `--option=value`: before plugins are
loaded, pytest takes the value in `--option value` for a path. `pytest --help` prints the same in its section
*proofpack*.

With `--proofpack-suite`, `--proofpack-baseline` or `--proofpack-verify` and no paths, only proof-pack items are
collected, and no `conftest.py` of yours is loaded. With none of them, the plugin does nothing. pytest's own options
do what they always do: `-k`, `-m proofpack_clean`, `-x`, `--lf`, `-n`, `--junitxml`, `--collect-only`. Every session
knows the markers (`pytest --markers`) and lists the fixtures of a suite's items (`pytest --fixtures`), which tests of
your own may use in a session with a suite ([Extending it](../extending.md)).

`MODEL_1` to `MODEL_8` replace the suite's models one by one: an empty one leaves its model out, one beyond the last
adds a model. Guards can be neither left out nor put into another order (`PACK_GUARDS_ORDER`, which other tools read,
changes nothing here): all of them judge every certificate, each from measurements that no other guard has touched.
"""
Key = tuple[str, Mapping[str, Any], bool]
"""A key's path, the schema of its value, and whether it has to be there."""
MADE = "<!-- Made from the code by .ci/reference.py: change the code, then run it. -->\n"
FILES = {
    "suite": ("Suite file", "TOML, given as `--proofpack-suite=FILE`."),
    "scenarios": ("Scenarios", "JSON, named by `scenarios` in the suite file; `state/scenarios.json` of a run."),
    "tuned_edit_params": ("Tuned parameters", "JSON, `--proofpack-tuned-edit-params=FILE`; tuning writes it."),
    "model_revisions": ("Pinned revisions", "JSON, `--proofpack-revisions=FILE`; a run writes it."),
    "preset": ("Calibration preset", "JSON, in the directory that `--proofpack-preset-dir=DIR` names."),
    "manifest": ("Manifest", "`manifest.json` of a pack: what the signature covers."),
}


def pages() -> dict[str, str]:
    """Return the text of every page by its file name."""
    return {"options.md": options(), "files.md": files(), "certificate.md": certificate(), "gates.md": gates()}


def options() -> str:
    """Return the page of all options."""
    lines = ["# Options", "", MADE]
    lines += [OPTIONS_INTRODUCTION]
    for option in OPTIONS:
        lines += [f"## `{option.flag}`", "", f"{capital(option.meaning)}.", "", *option_facts(option), ""]
    return "\n".join(lines)


def option_facts(option: Option) -> Iterator[str]:
    """Yield what is to be known of an option, a line each."""
    value = "a switch" if option.metavar is None else f"`{option.metavar}`"
    yield f"- Value: {value}{', may be given several times' if option.repeatable else ''}"
    if option.choices:
        yield f"- Choices: {code(option.choices)}"
    if option.default not in (None, (), {}):
        yield f"- Default: `{option.default}`"
    if option.environment.names:
        yield f"- Environment: {code(option.environment.names)}"
    yield f"- Ini: `{option.dest}`" if option.ini else "- Ini: none, it belongs on the command line"


def files() -> str:
    """Return the page of the files that people write or read."""
    lines = ["# Files", "", MADE]
    lines += [
        "Keys as paths: `models[].id` is the key `id` of every entry of `models`, `*` stands for names of your own."
    ]
    for name, (title, what) in FILES.items():
        lines += ["", f"## {title}", "", what, "", *table(packaged_schema(name))]
    return "\n".join([*lines, ""])


def certificate() -> str:
    """Return the page of a certificate's keys."""
    lines = ["# Keys of a certificate", "", MADE, "What they mean is told in [The certificate](../certificate.md).", ""]
    return "\n".join([*lines, *table(certificate_schema()), ""])


def gates() -> str:
    """Return the page of all gates with their thresholds in every tier, and of edits, tools and faults."""
    tiers: Mapping[str, Any] = parse_json((ROOT / "src/pytest_proofpack/data/tiers.json").read_bytes(), "tiers")[
        "tiers"
    ]
    lines = ["# Gates, edits and faults", "", MADE]
    lines += ["What a gate means and cannot see is told in [Concepts](../concepts.md).", ""]
    for criterion in criteria():
        signal = f" Signal: {criterion.signal.letter}, {criterion.signal.legend}." if criterion.signal else ""
        lines += [f"## {criterion.name}", "", f"Judges {criterion.judges}.{signal}", ""]
        lines += [f"- Gates: {code(gate.flag for gate in criterion.gates) or 'none'}"]
        if criterion.warnings:
            lines += [f"- Warnings: {code(criterion.warnings)}"]
        lines += ["", *limits(criterion.section, tiers), ""]
    lines += ["## Edits", "", "| edit | parameters |", "|---|---|"]
    lines += [
        f"| `{name}` | {code(one.name for one in edit.parameters) or 'none'} |" for name, edit in sorted(EDITS.items())
    ]
    lines += ["", "## Tools", "", "| tool | recipes | package |", "|---|---|---|"]
    lines += [
        f"| `{name}` | {code(one.name for one in tool.recipes)} | `{tool.package}` |"
        for name, tool in sorted(TOOLS.items())
    ]
    lines += ["", "## Faults", "", code(sorted(FAULTS)), ""]
    return "\n".join(lines)


def limits(section: str | None, tiers: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of a section's values, a column for each tier."""
    if section is not None and any(section in tier for tier in tiers.values()):
        yield f"| `{section}` | {' | '.join(tiers)} |"
        yield "|---" * (len(tiers) + 1) + "|"
        for key in next(iter(tiers.values()))[section]:
            yield f"| `{key}` | " + " | ".join(value(tier[section].get(key)) for tier in tiers.values()) + " |"


def table(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of a schema's keys."""
    yield "| key | value | |"
    yield "|---|---|---|"
    for path, entry, required in keys(schema, schema):
        told = "required" if required else ""
        what = ". ".join(filter(None, (told, entry.get("description", ""))))
        yield f"| `{path}` | {words(entry)} | {what.replace('|', chr(92) + '|')} |"


def keys(schema: Mapping[str, Any], root: Mapping[str, Any], path: str = "") -> Iterator[Key]:
    """Yield every key below a schema: its path, its own schema, and whether it has to be there."""
    for name, found in schema.get("properties", {}).items():
        entry = resolved(found, root)
        own = f"{path}.{name}" if path else name
        yield own, entry, name in schema.get("required", ())
        yield from below(entry, root, own)
    others = schema.get("additionalProperties")
    if isinstance(others, Mapping) and others:
        entry = resolved(others, root)
        yield f"{path}.*", entry, False
        yield from below(entry, root, f"{path}.*")


def below(entry: Mapping[str, Any], root: Mapping[str, Any], path: str) -> Iterator[Key]:
    """Yield the keys inside a value: of an object, of every element of a list, of each of several kinds."""
    yield from keys(entry, root, path)
    if isinstance(elements := entry.get("items"), Mapping):
        yield from below(resolved(elements, root), root, f"{path}[]")
    for kind in entry.get("oneOf", ()):
        yield from below(resolved(kind, root), root, path)


def resolved(entry: Mapping[str, Any], root: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a reference within a schema stands for."""
    found: Mapping[str, Any] = entry
    if isinstance(reference := entry.get("$ref"), str):
        for part in reference.removeprefix("#/").split("/"):
            root = root[part]
        found = {**root, **{key: own for key, own in entry.items() if key != "$ref"}}
    return found


def words(entry: Mapping[str, Any]) -> str:
    """Return what a value may be."""
    if "const" in entry:
        return value(entry["const"])
    if "enum" in entry:
        return code(entry["enum"])
    kind = entry.get("type", "one of several" if "oneOf" in entry else "anything")
    kinds = " or ".join([kind] if isinstance(kind, str) else kind)
    ends = {"from": entry.get("minimum"), "to": entry.get("maximum")}
    kinds += "".join(f" {word} {value(end)}" for word, end in ends.items() if end is not None)
    return kinds + (f", `{entry['pattern']}`" if "pattern" in entry else "")


def value(what: object) -> str:
    """Return a value as it stands in a file."""
    if isinstance(what, Mapping):
        return ", ".join(f"{key} {own}" for key, own in what.items())
    if isinstance(what, list):
        return ", ".join(map(str, what))
    return "" if what is None else f"`{str(what).lower() if isinstance(what, bool) else what}`"


def code(names: Any) -> str:
    """Return names as code, with commas between."""
    return ", ".join(f"`{name}`" for name in names)


def capital(text: str) -> str:
    """Return a text that begins with a capital, unless it begins with a value: ``auto: ...``."""
    return text if ":" in text.partition(" ")[0] else text[:1].upper() + text[1:]


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for name, text in pages().items():
        (TARGET / name).write_text(text, encoding="utf-8")

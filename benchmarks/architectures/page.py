"""docs/architectures.md, from what the sweep found."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date

import transformers

from benchmarks.architectures.configs import POPULAR, VARIANTS
from benchmarks.architectures.real_sizes import PUBLISHED, build_without_weights, real_layout, splits
from benchmarks.architectures.sweep import CHIEF, Finding

_SHOWN = 160
_HEAD = """# Every decoder

Which parameters are attention, feed-forward, router, norm, embedding or head is found by running a model on seven
tokens, not by names ([the certificate](certificate.md#edits)). This page holds that against what a person expects, for
every causal language model of transformers {version}: a small model with random weights is built, saved, loaded, and
certified in every scenario of a suite.

    python -m benchmarks.architectures --results build/architectures --page docs/architectures.md

made this page on {day}, on a CPU. What a person expects stands in `benchmarks/architectures/expected.py`, to be read;
the sizes in `configs.py` there. A sweep can be stopped and goes on where it was; with names it does only those.

- **weights**: parameters that hold weight matrices, per group. Every parameter was compared with what a person
  expects, not only these.
- **edits**, **faults**: scenarios that did what they should. An edit changes every weight matrix of its scope and
  nothing else; a fault is seen by the guard that has to see it (invariants or spectral); every certificate verifies.
- **noop**: the perplexity ratio is 1.0 and no gate but the baseline's quality fails (random weights predict nothing).
- **restored**: after every scenario all parameters and buffers are as before, bit for bit, with identity, modules and
  configuration.
- **bf16**: the same in bfloat16, for those that it could hide something of.

Of the popular ones every scenario is certified. Of the others, and in bfloat16, these are:
{chief};
in the other scenarios they are edited and put back, and what was changed is compared.
"""


def page(findings: Mapping[str, Finding], half: Mapping[str, Finding]) -> str:
    """Return the page.

    Args:
        findings: by architecture or variant, in float32.
        half: in bfloat16, of some.
    """
    lines = [
        _HEAD.format(
            version=transformers.__version__,
            day=date.today().isoformat(),
            chief=", ".join(f"`{name}`" for name in sorted(CHIEF)),
        ),
        *_summary(findings),
        "",
    ]
    tables = (
        ("The popular ones", [name for name in POPULAR if name in findings]),
        ("The others", sorted(name for name in findings if name not in POPULAR and name not in VARIANTS)),
        ("Other configurations", [name for name in VARIANTS if name in findings]),
    )
    for title, names in tables:
        certified = [findings[name] for name in names if not findings[name].refused and not findings[name].not_built]
        if certified:
            lines += [f"## {title}", "", *_table(certified, half), ""]
    if any(found.refused for found in findings.values()):
        lines += ["## Refused", "", *_refused(findings.values()), ""]
    if any(found.not_built for found in findings.values()):
        lines += ["## Not built here", "", *_not_built(findings.values()), ""]
    lines += ["## Real sizes", "", *_real_sizes()]
    return "\n".join(lines) + "\n"


def _summary(findings: Mapping[str, Finding]) -> Iterator[str]:
    own = {name: found for name, found in findings.items() if name not in VARIANTS}
    built = [found for found in own.values() if not found.not_built]
    whole = sum(found.whole for found in built)
    popular = [own[name] for name in POPULAR if name in own]
    refused = sum(bool(found.refused) for found in built)
    yield f"- {sum(found.whole for found in popular)} of the {len(popular)} popular ones work wholly;"
    yield f"- {whole} of {len(built) - refused} decoders that could be built and are not refused do"
    yield f"  ({100 * whole / max(1, len(built) - refused):.1f} %), {len(built) - whole - refused} work in part;"
    yield f"- {refused} are refused in one sentence; {len(own) - len(built)} could not be built here."


def _table(findings: Sequence[Finding], half: Mapping[str, Finding]) -> Iterator[str]:
    yield "| architecture | weights | edits | faults | noop | restored | bf16 | besides |"
    yield "|---|---|---|---|---|---|---|---|"
    for found in findings:
        counts = ", ".join(f"{count} {group}" for group, count in sorted(found.counts.items()))
        done = [f"{sum(not problem for problem in kind.values())}/{len(kind)}" for kind in (found.edits, found.faults)]
        noop = "; ".join(found.noop) or "1.0"
        restored = "yes" if not found.restored else f"not after {', '.join(found.restored)}"
        other = half.get(found.name)
        bf16 = "" if other is None else ("whole" if other.whole else _brief(next(_problems(other))))
        besides = _brief("; ".join([*_problems(found, with_noop=False), *found.warnings]))
        yield f"| {found.name} | {counts} | {' | '.join(done)} | {_brief(noop)} | {restored} | {bf16} | {besides} |"


def _problems(found: Finding, *, with_noop: bool = True) -> Iterator[str]:
    if found.wrong:
        yield f"{len(found.wrong)} parameters elsewhere than expected, the first {found.wrong[0]}"
    for scenario, problem in {**found.edits, **found.faults}.items():
        if problem:
            yield f"{scenario}: {problem}"
    if with_noop:
        yield from found.noop
        yield from (f"not restored after {scenario}" for scenario in found.restored)
        yield from filter(None, (found.refused, found.not_built))


def _refused(findings: Iterable[Finding]) -> Iterator[str]:
    for found in sorted(findings, key=lambda found: found.name):
        if found.refused:
            yield f"- `{found.name}`: {_brief(found.refused)}"


def _not_built(findings: Iterable[Finding]) -> Iterator[str]:
    yield "Transformers could not make these of a small configuration, or needs a package that was not installed:"
    yield ""
    for found in sorted(findings, key=lambda found: found.name):
        if found.not_built:
            yield f"- `{found.name}`: {_brief(found.not_built)}"


def _brief(text: str) -> str:
    line = " ".join(text.replace("|", "/").split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."


def _real_sizes() -> Iterator[str]:
    yield "Published sizes on the meta device, without a single weight: the groups are those of the small twin, which"
    yield "was run, the shapes and splits are real. Parameters are counted here, beside what the publisher says."
    for published in PUBLISHED:
        model = build_without_weights(published)
        layout = real_layout(model, published.architecture)
        count = sum(parameter.numel() for parameter in model.parameters())
        yield ""
        yield f"### {published.name}"
        yield ""
        yield f"{count / 1e9:.2f}B parameters here, published: {published.parameters}. Sizes: {published.source}."
        yield ""
        yield "| parameters | group | how many | shape | matrices in each |"
        yield "|---|---|---|---|---|"
        for split in splits(model, layout):
            parts = " and ".join(part for part in split.parts if part)
            each = (
                f"{split.matrices}{f' ({parts})' if parts else ''}, {_shape(split.matrix)}"
                if split.matrices > 1
                else "1"
            )
            yield f"| `{split.pattern}` | {split.group} | {split.count} | {_shape(split.shape)} | {each} |"


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))

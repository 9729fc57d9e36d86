"""How a checkpoint is quantized, in words: what ``quantization_config`` in its ``config.json`` says, within bounds.

Whoever made the file wrote it, so nothing in it is taken longer, larger or of another kind than a reader can use.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.errors import FormatError

NAMES_SHOWN = 8
"""How many of the modules that were left as they are, are named; the count is exact."""
FORM_LABELS = frozenset(
    {
        *("compressed-tensors", "torchao", "gguf", "bnb-int8", "bnb-nf4", "bnb-fp4", "bnb-4bit"),
        *("fp8", "mxfp4", "mxfp8", "gptq", "awq", "auto-round", "quanto", "hqq", "lora"),
    }
)
"""The words that labels of forms begin with, up to a colon: what the files of an edited model say by themselves."""
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")
_LONGEST_NAME = 120
_MOST = 2**31


@dataclass(frozen=True)
class Quantization:
    """What a configuration says of how weights are quantized.

    Attributes:
        method: the form: ``compressed-tensors``, ``bitsandbytes``, ``gptq``, ``gguf`` ...
        scheme: the tool's own name of what it did: ``W4A16``, ``nf4``, ``int8wo``, ``Q4_K_M`` ...; None if it has none.
        label: what an edit that did this is called.
        bits: of a weight; None if that is not told, or not the same for all.
        group: how many weights share a scale; None for whole rows, columns or matrices, or if not told.
        symmetric: whether zero stands in the middle of the grid; None if not told.
        activations: how the inputs of matrices are quantized; None if they are not.
        ignored: names or patterns of modules that were left as they are, the first few.
        ignored_count: how many there are.
    """

    method: str
    scheme: str | None
    label: str
    bits: int | None = None
    group: int | None = None
    symmetric: bool | None = None
    activations: str | None = None
    ignored: tuple[str, ...] = ()
    ignored_count: int = 0

    def to_json(self) -> JsonObject:
        """Return the JSON form that a certificate records."""
        return {**asdict(self), "ignored": list(self.ignored)}

    @classmethod
    def from_json(cls, recorded: Mapping[str, Any]) -> Quantization:
        """Read what :meth:`to_json` returned.

        Raises:
            FormatError: it is not what :func:`quantization_words` makes.
        """
        if set(recorded) != set(cls.__dataclass_fields__):
            raise FormatError("readings.quantization: expected other keys")
        count = recorded["ignored_count"]
        own = quantization_words(**{key: value for key, value in recorded.items() if key != "ignored_count"})
        found = replace(own, ignored_count=count)
        if type(count) is not int or not len(own.ignored) <= count <= _MOST or found.to_json() != dict(recorded):
            raise FormatError("readings.quantization: holds a value that no configuration gives")
        return found

    @property
    def words(self) -> str:
        """The whole in one line, for people."""
        facts = [
            f"{self.bits} bits" if self.bits is not None else "",
            f"groups of {self.group}" if self.group is not None else "",
            {True: "symmetric", False: "asymmetric", None: ""}[self.symmetric],
            f"activations {self.activations}" if self.activations is not None else "",
            f"without {', '.join(self.ignored)}{_more(self.ignored_count - len(self.ignored))}" if self.ignored else "",
        ]
        name = " ".join(filter(None, (self.method, self.scheme)))
        return "; ".join(filter(None, (name, *facts)))


def quantization_words(
    method: object,
    scheme: object = None,
    label: object = None,
    *,
    bits: object = None,
    group: object = None,
    symmetric: object = None,
    activations: object = None,
    ignored: object = (),
) -> Quantization:
    """Return what a configuration's values say; those of another kind, or out of bounds, say nothing.

    Without a label it is the method, with the scheme behind a colon if there is one. For the rest see
    :class:`Quantization`.
    """
    of_method, of_scheme = _word(method) or "unknown", _word(scheme)
    names = [name for name in ignored if isinstance(name, str)] if isinstance(ignored, list | tuple) else []
    return Quantization(
        method=of_method,
        scheme=of_scheme,
        label=_label(label) or (of_method if of_scheme is None else f"{of_method}:{of_scheme}"),
        bits=_count(bits, 64),
        group=_count(group, _MOST),
        symmetric=symmetric if isinstance(symmetric, bool) else None,
        activations=activations[:_LONGEST_NAME] if isinstance(activations, str) else None,
        ignored=tuple(name[:_LONGEST_NAME] for name in names[:NAMES_SHOWN]),
        ignored_count=len(names),
    )


def contradicts_form(given: str, told: str) -> bool:
    """Tell whether a label that a user gave names another form, or another scheme of it, than the files do.

    Labels that are no form's say nothing of it: a product of rounding to the nearest may be packed.
    """
    form, colon, _ = given.partition(":")
    return form in FORM_LABELS and (form != told.partition(":")[0] or (bool(colon) and given != told))


def recorded_label(quantization: Mapping[str, Any] | None) -> str | None:
    """Return what an edit that left a recorded quantization is called."""
    return None if quantization is None else Quantization.from_json(quantization).label


def _label(value: object) -> str | None:
    parts: Iterable[str] = value.split(":") if isinstance(value, str) else ()
    return str(value) if parts and all(_WORD.fullmatch(part) for part in parts) and len(str(value)) < 82 else None


def _word(value: object) -> str | None:
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def _count(value: object, most: int) -> int | None:
    return value if type(value) is int and 0 < value <= most else None


def _more(count: int) -> str:
    return f" and {count} more" if count > 0 else ""

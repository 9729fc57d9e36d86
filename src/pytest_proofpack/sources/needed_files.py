"""Which files of a repository a run needs, from their names and, where there is one, a small file that names others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.models.adapter_config import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from pytest_proofpack.models.files import CONFIG, GENERATION_CONFIG, TOKENIZER_FILES
from pytest_proofpack.models.formats.pickle import pickles
from pytest_proofpack.models.safetensors_files import INDEX, WEIGHTS, indexed_shards
from pytest_proofpack.sources.source import Source

_MODEL_FILES = frozenset(
    {
        *(CONFIG, GENERATION_CONFIG),
        *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
        *("chat_template.jinja", "chat_template.json"),
        *TOKENIZER_FILES,
    }
)
_TEMPLATES = "additional_chat_templates/*.jinja"
_CODE = (".py", ".tiktoken")
"""What a model with code of its own brings besides."""


def helper_file(source: Source, names: Iterable[str]) -> str | None:
    """Return the small file that says which others are needed: index of the weights, or card of the data set.

    None if there is no such file or it is not needed.
    """
    available = frozenset(names)
    if source.text is not None:
        from pytest_proofpack.text.parquet import CARD

        return CARD if CARD in available else None
    return INDEX if INDEX in available and WEIGHTS not in available else None


def needed_files(source: Source, names: Sequence[str], directory: Path) -> tuple[str, ...]:
    """Return the files of a repository that a run needs, sorted.

    Of a model: configuration, tokenizer and safetensors with their index; code only if it may run; never pickles. Of an
    adapter: its configuration and its safetensors, where there is no model beside it. Of a
    data set: its card and the parquet files of the split.

    Args:
        source: the repository.
        names: the paths of all of its files.
        directory: where its :func:`helper_file` lies, if it has one.

    Raises:
        ConfigurationError: something that is needed is not among ``names``.
    """
    available = frozenset(names)
    if source.text is not None:
        from pytest_proofpack.text.dataset_layout import select_files
        from pytest_proofpack.text.parquet import CARD, read_card

        card = directory / CARD
        chosen = select_files(names, read_card(card), source.text.config, source.text.split)
        return tuple(sorted({*chosen, *({CARD} & available)}))
    code = {name for name in names if source.remote_code and name.endswith(_CODE)}
    templates = {name for name in names if PurePosixPath(name).match(_TEMPLATES) and name.count("/") == 1}
    return tuple(sorted({*(_MODEL_FILES & available), *templates, *code, *_weights(available, directory)}))


def is_plain_path(name: object) -> bool:
    """Tell whether a name from elsewhere is the relative path of a file that stays where it is put."""
    if not isinstance(name, str) or not 0 < len(name) <= 1000 or "\\" in name or not name.isprintable():
        return False
    pure = PurePosixPath(name)
    return not pure.is_absolute() and ".." not in pure.parts and str(pure) == name


def _weights(available: frozenset[str], directory: Path) -> set[str]:
    if WEIGHTS in available:
        return {WEIGHTS}
    if INDEX not in available and {ADAPTER_CONFIG, ADAPTER_WEIGHTS} <= available:
        return {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    if INDEX not in available:
        pickled = sorted(pickles(available))
        detail = f"only pickled ones ({', '.join(pickled[:3])})" if pickled else "none at all"
        raise ConfigurationError(f"has no weights as {WEIGHTS} or {INDEX}, {detail}.")
    shards = indexed_shards(directory / INDEX)
    if not all(map(is_plain_path, shards)):
        raise ConfigurationError(f"{INDEX} does not name the safetensors files that hold the weights.")
    return {INDEX, *shards}

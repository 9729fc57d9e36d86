"""A tokenizer from its files by :mod:`tokenizers` alone: no torch is loaded.

transformers makes of ``tokenizer.json`` what is written there only if nothing else in the directory says otherwise: a
class of its own, code, tokens to be added. Where anything might, :func:`read_tokenizer` returns None, and transformers
has to be asked; what it makes is compared with :func:`tokenizer_as_written`, see
:mod:`pytest_proofpack.models.chosen_tokenizer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.errors import ConfigurationError, FormatError

_PLAIN_CLASSES = frozenset({"TokenizersBackend", "PreTrainedTokenizerFast"})
MODEL_TYPES = frozenset({"gpt2", "gpt_neox", "llama", "mistral", "mixtral"})
"""Types of models for which transformers has been seen to respect these classes; a test looks at the installed one."""
_OTHER_FORMATS = ("tekken.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "spiece.model")
"""Files beside ``tokenizer.json`` from which transformers may build something else."""
TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
_BESIDE = (TOKENIZER_CONFIG, "special_tokens_map.json", "added_tokens.json")
_FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


class FileTokenizer:
    """What fingerprint and windows need of a tokenizer, with the names and the results that transformers gives them."""

    def __init__(self, tokenizer: Tokenizer, name_or_path: str, eos_token_id: int | None) -> None:
        self._tokenizer = tokenizer
        self._splits_special_tokens = bool(tokenizer.encode_special_tokens)
        self.name_or_path = name_or_path
        self.eos_token_id = eos_token_id

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    def __call__(
        self, texts: Sequence[str], *, split_special_tokens: bool | None = None, **_: object
    ) -> dict[str, list[list[int]]]:
        """Return the token ids of every text, without special tokens around it.

        Args:
            texts: what to split.
            split_special_tokens: take what looks like a special token in a text for text; None for what its settings
                say.
        """
        split = self._splits_special_tokens if split_special_tokens is None else split_special_tokens
        self._tokenizer.encode_special_tokens = split
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return {"input_ids": [encoding.ids for encoding in encoded]}

    def decode(self, ids: Sequence[int], **_: object) -> str:
        """Return the text of token ids, special tokens included."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False))

    def convert_ids_to_tokens(self, identifier: int) -> str | None:
        """Return the token of an id; None if there is none."""
        token: str | None = self._tokenizer.id_to_token(identifier)
        return token

    def special_tokens(self) -> list[str]:
        """Return the tokens that are found in a text before it is split, in the order of their ids."""
        return [token.content for _, token in sorted(self._tokenizer.get_added_tokens_decoder().items())]

    def get_vocab(self) -> dict[str, int]:
        """Return the id of every token."""
        vocabulary: dict[str, int] = self._tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary


def read_tokenizer(path: Path) -> FileTokenizer | None:
    """Return the tokenizer of a model directory; None if only transformers can tell what it is.

    Args:
        path: the directory, with ``config.json`` and ``tokenizer_config.json`` beside ``tokenizer.json``.

    Raises:
        ConfigurationError: ``tokenizer.json`` is malformed.
    """
    try:
        model, settings = read_json(path / "config.json"), read_json(path / TOKENIZER_CONFIG)
        named = read_json(path / "special_tokens_map.json") if (path / "special_tokens_map.json").exists() else {}
    except FormatError:
        return None
    if not (_is_plain(path, model, settings) and (path / TOKENIZER_JSON).is_file()):
        return None
    tokenizer = _from_file(path)
    added = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    if not all(_is_there(token, added) for token in (*_special_tokens(settings), *_special_tokens(named))):
        return None
    end = _content(settings.get("eos_token"))
    identifier = tokenizer.token_to_id(end) if end is not None else None
    if identifier is None or named.get("eos_token", settings["eos_token"]) not in (settings["eos_token"], end):
        return None
    return FileTokenizer(tokenizer, str(path), identifier)


def tokenizer_as_written(path: Path) -> FileTokenizer:
    """Return what ``tokenizer.json`` says, with the tokens that the files beside it add; its end of text is theirs.

    Its ``eos_token_id`` is None where they name none.

    Args:
        path: the directory.

    Raises:
        ConfigurationError: ``tokenizer.json`` is malformed.
    """
    tokenizer = _from_file(path)
    settings, named, added = (_optional(path / name) for name in _BESIDE)
    known = tokenizer.get_vocab(with_added_tokens=True)
    for token in (*added, *_special_tokens(settings), *_special_tokens(named)):
        content = _content(token)
        if content and content not in known:
            tokenizer.add_special_tokens([_added(token, content)])
    tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens"))
    ends = (_content(document.get("eos_token")) for document in (settings, named))
    end = next((end for end in ends if end is not None), None)
    return FileTokenizer(tokenizer, str(path), None if end is None else tokenizer.token_to_id(end))


def stated_words(path: Path) -> frozenset[str]:
    """Return every string in the files beside ``tokenizer.json``: a token that is none of them stands in no file."""

    def strings(value: Any) -> Iterator[str]:
        match value:
            case str():
                yield value
            case dict():
                yield from (text for item in (*value, *value.values()) for text in strings(item))
            case list():
                yield from (text for item in value for text in strings(item))

    return frozenset(text for name in _BESIDE for text in strings(_optional(path / name)))


def tokenizer_of_file(path: Path) -> Tokenizer:
    """Return the tokenizer of a directory's ``tokenizer.json``, just as it stands there.

    Raises:
        ConfigurationError: it is malformed.
    """
    file = path / TOKENIZER_JSON
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises nothing narrower, whatever is wrong with the file
        reason = str(error).partition("\n")[0]
        raise ConfigurationError(
            f"{file}: no tokenizer can be made of it ({reason}). Save it again: tokenizer.save_pretrained(directory)."
        ) from error


def _from_file(path: Path) -> Tokenizer:
    """Return the tokenizer of a directory's ``tokenizer.json``, which neither pads nor truncates."""
    tokenizer = tokenizer_of_file(path)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _optional(file: Path) -> JsonObject:
    """Return a document that may be missing, or be malformed where only transformers reads it."""
    try:
        return read_json(file) if file.is_file() else {}
    except FormatError:
        return {}


def _content(token: Any) -> str | None:
    """Return the text of a token, which stands there alone or with flags."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


def _added(token: Any, content: str) -> AddedToken:
    flags = {flag: bool(token[flag]) for flag in _FLAGS if flag in token} if isinstance(token, dict) else {}
    return AddedToken(content, **{"special": True, **flags})


def _is_plain(path: Path, model: JsonObject, settings: JsonObject) -> bool:
    """Tell whether transformers would take ``tokenizer.json`` as it is."""
    return (
        settings.get("tokenizer_class") in _PLAIN_CLASSES
        and model.get("model_type") in MODEL_TYPES
        and not any("auto_map" in document for document in (model, settings))
        and not settings.get("split_special_tokens")
        and not any((path / name).exists() for name in _OTHER_FORMATS)
    )


def _special_tokens(settings: JsonObject) -> Iterator[Any]:
    """Yield every token that a settings file would have added: by name, in lists, with flags."""
    for key, value in settings.items():
        if key.endswith("_token") and value is not None and not isinstance(value, bool):
            yield value
        elif key in {"additional_special_tokens", "extra_special_tokens"}:
            yield from (value.values() if isinstance(value, dict) else value or ())
        elif key == "added_tokens_decoder" and isinstance(value, dict):
            yield from value.values()


def _is_there(token: Any, added: dict[str, AddedToken]) -> bool:
    """Tell whether the tokenizer has a token already, with the same flags if any are given."""
    if isinstance(token, str):
        return token in added
    known = added.get(str(token.get("content"))) if isinstance(token, dict) else None
    return known is not None and all(getattr(known, flag) == token.get(flag, getattr(known, flag)) for flag in _FLAGS)

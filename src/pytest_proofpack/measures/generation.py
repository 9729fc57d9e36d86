"""Read what steers generation: as transformers holds it once the model is loaded, and from the tokenizer's files.

Tools write the same fact in different places: a chat template in ``tokenizer_config.json`` or in a file of its own,
special tokens there or in ``special_tokens_map.json``, as text or with flags, the ids of the end in a generation
config that was made of ``config.json``. What is read here is the fact, with the file that it was found in.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.errors import EvaluationError, FormatError
from pytest_proofpack.guards.generation import recorded_fact
from pytest_proofpack.measures.structure import plain_json
from pytest_proofpack.models.files import CONFIG, GENERATION_CONFIG, CheckpointFiles
from pytest_proofpack.models.tokenizer import TOKENIZER_CONFIG

TOKENS_MAP = "special_tokens_map.json"
TEMPLATE, TEMPLATE_JSON, TEMPLATES = "chat_template.jinja", "chat_template.json", "additional_chat_templates"
_TEMPLATE_FACT, _NAMED_TEMPLATES_FACT = "tokenizer.chat_template", f"tokenizer.{TEMPLATES}"
_DEFAULT_TEMPLATE, _JINJA = "default", ".jinja"
_MOST_TEMPLATES = 100
_IDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_NO_STEERING = frozenset({"transformers_version", "use_cache"})
_DEFAULTS: JsonObject = {
    "assistant_confidence_threshold": 0.4, "assistant_lookbehind": 10, "diversity_penalty": 0, "do_sample": False,
    "early_stopping": False, "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1, "epsilon_cutoff": 0,
    "eta_cutoff": 0, "length_penalty": 1, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
    "num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant", "num_beam_groups": 1, "num_beams": 1,
    "num_return_sequences": 1, "output_attentions": False, "output_hidden_states": False, "output_logits": False,
    "output_scores": False, "remove_invalid_values": False, "repetition_penalty": 1, "return_dict_in_generate": False,
    "target_lookbehind": 10, "temperature": 1, "top_k": 50, "top_p": 1, "typical_p": 1,
}  # fmt: skip
"""What transformers takes where a generation config is silent: who writes it out says nothing else."""

Fact = tuple[str, str, object]
"""Key, with what it is about before a dot; file; value."""


def generation_facts(
    model: PreTrainedModel, files: CheckpointFiles, *, with_tokenizer: bool, with_template: bool = False
) -> JsonObject:
    """Return what steers generation, by key.

    Args:
        model: a loaded model; its weights may have been given up.
        files: its directory.
        with_tokenizer: whether the tokenizer's files count; a subject may come without.
        with_template: whether the chat template alone counts, which a single file may hold.

    Raises:
        EvaluationError: a file is no strict JSON.
    """
    facts = [*_of_model(model, files)]
    if with_tokenizer:
        facts += _of_tokenizer(files.path)
    elif with_template:
        facts += [_template(files)]
    return {key: recorded_fact(file, value) for key, file, value in facts if value is not None}


def _of_model(model: PreTrainedModel, files: CheckpointFiles) -> Iterator[Fact]:
    config = model.config.get_text_config()
    for key in _IDS:
        yield f"config.{key}", CONFIG, _identifiers(getattr(config, key, None))
    generation = getattr(model, "generation_config", None)
    if generation is None:
        return
    file = GENERATION_CONFIG if (files.path / GENERATION_CONFIG).is_file() else CONFIG
    for key, value in generation.to_dict().items():
        if not (key.startswith("_") or key in _NO_STEERING or _is_default(key, value)):
            yield f"generation.{key}", file, _identifiers(value) if key in _IDS else plain_json(value)


def _of_tokenizer(path: Path) -> Iterator[Fact]:
    settings, named = _read(path / TOKENIZER_CONFIG), _read(path / TOKENS_MAP)
    tokens = {**_special_tokens(named, TOKENS_MAP), **_special_tokens(settings, TOKENIZER_CONFIG)}
    for key, (file, value) in tokens.items():
        yield f"tokenizer.{key}", file, value
    yield from _templates(path, settings)


def _templates(path: Path, settings: JsonObject) -> Iterator[Fact]:
    """Yield the chat template, and those that have names of their own, which a folder or a list holds."""
    written = settings.get("chat_template")
    listed = _by_name(written)
    if (path / TEMPLATE).is_file():
        yield _TEMPLATE_FACT, TEMPLATE, _text_of(path / TEMPLATE)
    elif written is not None:
        yield _TEMPLATE_FACT, TOKENIZER_CONFIG, written if listed is None else listed.get(_DEFAULT_TEMPLATE)
    else:
        yield _TEMPLATE_FACT, TEMPLATE_JSON, _read(path / TEMPLATE_JSON).get("chat_template")
    if in_folder := _in_folder(path / TEMPLATES):
        yield _NAMED_TEMPLATES_FACT, TEMPLATES, in_folder
    else:
        others = {name: text for name, text in (listed or {}).items() if name != _DEFAULT_TEMPLATE}
        yield _NAMED_TEMPLATES_FACT, TOKENIZER_CONFIG, others or None


def _by_name(written: Any) -> JsonObject | None:
    """Return templates by name, which the tokenizer's settings list; None if they hold no such list."""
    try:
        return {str(own["name"]): own["template"] for own in written} if isinstance(written, list) else None
    except (KeyError, TypeError):
        return None


def _in_folder(folder: Path) -> JsonObject:
    """Return the texts of the templates in a folder, by name.

    Raises:
        EvaluationError: there are more than anybody would write.
    """
    files = sorted(file for file in folder.glob(f"*{_JINJA}") if file.is_file())
    if len(files) > _MOST_TEMPLATES:
        raise EvaluationError(f"{folder}: holds {len(files)} chat templates. Keep at most {_MOST_TEMPLATES}.")
    return {file.name.removesuffix(_JINJA): _text_of(file) for file in files}


def _text_of(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace")


def _template(files: CheckpointFiles) -> Fact:
    """Return the chat template of a model's tokenizer files, or of a single file that holds the tokenizer."""
    own = files.format.single_file
    if own is not None and files.holds_tokenizer:
        return _TEMPLATE_FACT, files.weights[0].name, own.chat_template(files)
    return next(fact for fact in _of_tokenizer(files.path) if fact[0] == _TEMPLATE_FACT)


def _special_tokens(settings: JsonObject, file: str) -> dict[str, tuple[str, object]]:
    """Return special tokens by name; further ones as one sorted list, whatever the file calls it."""
    found: dict[str, tuple[str, object]] = {}
    for key, value in settings.items():
        if key in _LISTS and isinstance(value, dict):  # tokens of a model's own, by name
            found |= {name: (file, _text(token)) for name, token in value.items()}
        elif key in _LISTS and value:
            found[_LISTS[0]] = file, sorted(map(str, map(_text, value)))
        elif key.endswith("_token") and isinstance(value, str | dict):
            found[key] = file, _text(value)
    return found


def _text(token: Any) -> Any:
    """Return a token's text; its flags are the tokenizer's, whose fingerprint the invariants compare."""
    return token.get("content") if isinstance(token, dict) else token


def _identifiers(value: Any) -> Any:
    """Return an id, or several sorted; a list of one is that one."""
    if isinstance(value, list | tuple) and all(isinstance(entry, int) for entry in value):
        return value[0] if len(value) == 1 else sorted(value)
    return plain_json(value)


def _is_default(key: str, value: object) -> bool:
    default = _DEFAULTS.get(key)
    return value is None or (value == default and isinstance(value, bool) == isinstance(default, bool))


def _read(path: Path) -> JsonObject:
    try:
        return read_json(path, str(path)) if path.is_file() else {}
    except FormatError as error:
        raise EvaluationError(f"{error}. Save the tokenizer again: tokenizer.save_pretrained(directory).") from error

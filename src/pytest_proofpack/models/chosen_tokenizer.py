"""The tokenizer of a model directory: what its ``tokenizer.json`` says, whatever transformers makes of it.

A class of transformers may build its own pre-tokenizer instead of the file's, or add a token that stands in no file.
The model was trained on the file's tokens, so losses on others say nothing. The two are compared on a text in many
scripts and on the tokenizer's own tokens, and where they differ the file's is used, with a warning.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pytest_proofpack.common.words import first_of
from pytest_proofpack.models.tokenizer import (
    TOKENIZER_JSON,
    FileTokenizer,
    read_tokenizer,
    stated_words,
    tokenizer_as_written,
)

if TYPE_CHECKING:
    from pytest_proofpack.models.files import CheckpointFiles
    from pytest_proofpack.plan.records import ModelSpec

PROBE = (
    "The quick brown fox can't jump; they'LL say I'm 3.14159 x 2,048 = 6433? 007 1234567890 1e-9 0xFF",
    "  two  blanks\tand tabs\t\t and   three \r\n\r\n line\n\n\n   end ",
    "def f(x: int) -> str:\n    return f\"{x**2:>8}\"  # CamelCase snake_case kebab-case\n\n\tif a != b['k']: pass;\n",
    "Ünïcödé naïve façade STRASSE straße İstanbul ﬁne ½ ² — “quoted” ‘it’s’ … e\u0301 \u00a0 \u200b \ufeff \ufffd",
    "東京で日本語を書く。 汉字混合 English 混排123 한국어 문장 ไทยภาษา",
    "Москва и Санкт-Петербург العربية ١٢٣ हिन्दी १२३ עברית ελληνικά",
    "🙂 👩\u200d👩\u200d👧 🇩🇪 ❤\ufe0f http://example.org/a?b=c&d=%20#e user@example.com <b>bold</b> $\\frac{1}{2}$",
    "aaaaaaaaaaaaaaaa ======== ________ ........ !!!!!!!! 0000000000000000 ABCabcABC HTTPServer2Go l'été d'Orsay",
)
"""Scripts, runs of blanks, digits, code, emoji, contractions: what pre-tokenizers treat differently."""
PROBED_TOKENS = 4096
"""Where a small vocabulary has no merges, the probe is of no use; so a tokenizer's own tokens are split too."""
PROBED_SPECIAL = 64
_SHOWN = 4
_TOKEN_LENGTH = 40


@dataclass(frozen=True)
class ChosenTokenizer:
    """The tokenizer of a model directory.

    Attributes:
        tokenizer: what splits the text.
        source: ``tokenizer.json`` if its tokens are those of that file, else the class that transformers made.
        warnings: what a user should know about it.
    """

    tokenizer: Any
    source: str
    warnings: tuple[str, ...] = ()


def choose_tokenizer(spec: ModelSpec, files: CheckpointFiles) -> ChosenTokenizer:
    """Return the tokenizer of a model directory. transformers is loaded only where the files leave room for doubt.

    Raises:
        ConfigurationError: no tokenizer can be made of the files, or no end-of-text token is known.
    """
    plain = None if spec.trust_remote_code or not files.tokenizer_files else read_tokenizer(files.path)
    if plain is not None:
        return ChosenTokenizer(plain, TOKENIZER_JSON)
    from pytest_proofpack.models.load import end_token, load_tokenizer

    made = load_tokenizer(spec)
    kind = type(made).__name__
    is_code_of_its_own = not type(made).__module__.startswith("transformers.")
    if is_code_of_its_own or TOKENIZER_JSON not in files.tokenizer_files:
        return ChosenTokenizer(made, kind)
    written = tokenizer_as_written(files.path)
    difference = _difference(made, written, stated_words(files.path))
    if difference is None:
        return ChosenTokenizer(made, TOKENIZER_JSON)
    if written.eos_token_id is None:
        known = written.get_vocab()
        name = made.eos_token if made.eos_token in known else end_token(written, spec)
        written.eos_token_id = known[name]
    warning = f"transformers makes a {kind} of its files, which {difference}: the tokens are those of {TOKENIZER_JSON}."
    return ChosenTokenizer(written, TOKENIZER_JSON, (warning,))


def _difference(made: Any, written: FileTokenizer, stated: Collection[str]) -> str | None:
    """Say how what transformers made differs from what is written; None if nothing shows it."""
    ours, theirs = written.get_vocab(), made.get_vocab()
    added = sorted(theirs.keys() - ours.keys() - set(stated), key=theirs.__getitem__)
    if added:
        shown = first_of([repr(token[:_TOKEN_LENGTH]) for token in added], _SHOWN)
        return f"adds tokens that stand in no file ({shown})"
    texts = _probe(written)
    usual = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    for options in (usual, {**usual, "split_special_tokens": True}):  # as it is, and as documents are split
        pairs = zip(made(texts, **options)["input_ids"], written(texts, **options)["input_ids"], strict=True)
        for text, (split, own) in zip(texts, pairs, strict=True):
            if list(split) != own:
                return f"splits {text[:_TOKEN_LENGTH]!r} otherwise"
    return None


def _probe(written: FileTokenizer) -> Sequence[str]:
    """Return the texts on which tokenizers are compared."""
    step = -(-len(written) // PROBED_TOKENS) or 1
    own = [written.decode([token]) for token in range(0, len(written), step)]
    special = "".join(f"a {token} b{token}\n" for token in written.special_tokens()[:PROBED_SPECIAL])
    return [*PROBE, special, "".join(own), *own]

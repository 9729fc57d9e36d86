"""What the files of a model say before torch is loaded: complete, readable, safe to load, and their digest.

Everything is read through one :class:`CheckpointFiles` per model, once, and again only if a file has changed. A model
is a directory, or one file that holds all of it (GGUF), which is taken for a directory with nothing else in it.
Only safetensors and GGUF are ever loaded. A pickle (``*.bin``, ``*.pt``) runs code of whoever wrote it and is refused.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path, PurePosixPath

from pytest_proofpack.common.files import FileState, changed_files, file_state, read_several, sha256_file
from pytest_proofpack.common.model_directory import model_content, root_digest
from pytest_proofpack.common.strict_json import JsonObject, read_json
from pytest_proofpack.errors import ConfigurationError, EvaluationError, FormatError
from pytest_proofpack.models.checkpoint_formats import CheckpointFormat, Loaded, format_of
from pytest_proofpack.models.packed_matrices import PackedMatrix
from pytest_proofpack.models.safetensors_files import TensorHeader, is_inside
from pytest_proofpack.models.shard_index import each_once, require_digested, require_true_index
from pytest_proofpack.models.sizes import require_fitting_sizes
from pytest_proofpack.models.weight_sets import require_one_set
from pytest_proofpack.plan.places import is_single_file
from pytest_proofpack.plan.records import ModelSpec

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tekken.json",
)
"""The vocabulary files that transformers can build a tokenizer from; one of them must be there."""

BYTES_PER_PARAMETER = 2
"""Of a model whose files are not here: nearly all large checkpoints are in bfloat16 or float16."""
_LICENSES = ("LICENSE", "LICENCE", "COPYING", "NOTICE")
_KNOWN_DIRECTORIES = 64


class CheckpointFiles:
    """The files of one model directory; whatever is asked of them is read once.

    Get it by :meth:`of` or :meth:`at`, which return the same object for the same directory as long as no file in it
    changes. Every property may raise :class:`~pytest_proofpack.errors.ConfigurationError`, which says what to do.

    Attributes:
        path: the directory.
        content: its files, links followed, relative to it, in the order of their paths compared part by part. Left
            out at the top are entries that are not part of the model: ``.git*``, ``.cache`` (the hub's download
            records, which hold times) and the signature ``model.sig``. For a snapshot in the hub's cache, which may
            hold files that somebody else fetched, those that the model consists of.
        states: of these files, when they were found.
        names: at the top of the directory, sorted; of a single file that is a model, its own.
    """

    def __init__(
        self,
        path: Path,
        content: tuple[PurePosixPath, ...],
        states: tuple[FileState, ...],
        names: tuple[str, ...],
    ) -> None:
        self.path = path
        self.content = content
        self.states = dict(zip(content, states, strict=True))
        self.names = names

    @classmethod
    def of(cls, spec: ModelSpec) -> CheckpointFiles:
        """Return the files of a model.

        Raises:
            ConfigurationError: the model has not been resolved to a directory, or it is none.
        """
        return cls.at(model_path(spec), spec.files)

    @classmethod
    def at(cls, path: Path, files: Collection[str] = ()) -> CheckpointFiles:
        """Return the files of a directory, or of those in it that a model consists of; or of one file by its path.

        Raises:
            ConfigurationError: it cannot be read.
        """
        alone = path.is_file()
        if alone:
            path, files = path.parent, (path.name,)
        try:
            content = tuple(sorted(map(PurePosixPath, files) if files else model_content(path)))
            states = tuple(file_state(path / file) for file in content)
            names = tuple(files) if alone else tuple(sorted(entry.name for entry in path.iterdir()))
        except OSError as error:
            raise _unreadable(error, path) from error
        return _known(path, content, states, names)

    @cached_property
    def dangling(self) -> tuple[str, ...]:
        """Links at the top that lead nowhere."""
        return tuple(name for name in self.names if not (self.path / name).exists())

    @cached_property
    def config(self) -> JsonObject:
        """``config.json``, or what a single file says in its place, which the format's package reads."""
        own = self.format.single_file
        if own is None:
            return self.written_config
        self.require_loadable()
        return own.config(self)

    @cached_property
    def written_config(self) -> JsonObject:
        """``config.json``."""
        try:
            return read_json(self.path / CONFIG, f"{self.path / CONFIG}")
        except FormatError as error:
            raise ConfigurationError(
                f"{error}. A model directory needs the config.json that model.save_pretrained writes."
            ) from error

    @cached_property
    def claims(self) -> JsonObject:
        """``config.json`` as far as a format is recognised by it: empty if it cannot be read, which others tell."""
        try:
            return self.written_config if CONFIG in self.names else {}
        except ConfigurationError:
            return {}

    @cached_property
    def text_config(self) -> JsonObject:
        """The part of ``config.json`` that is about text: of a model that sees or hears too, not all of it."""
        text = self.config.get("text_config")
        return text if isinstance(text, dict) else self.config

    @cached_property
    def generation_config(self) -> JsonObject:
        """``generation_config.json``; empty if there is none."""
        path = self.path / GENERATION_CONFIG
        try:
            return read_json(path, f"{path}") if GENERATION_CONFIG in self.names and path.is_file() else {}
        except FormatError as error:
            raise ConfigurationError(f"{error}. Correct it, or delete it: nothing here is generated.") from error

    @cached_property
    def quantization_config(self) -> JsonObject:
        """What the configuration says of how the weights are quantized, unchecked; empty if they are dense."""
        quantization = self.claims.get("quantization_config")
        return quantization if isinstance(quantization, dict) else {}

    @cached_property
    def quantization_method(self) -> str | None:
        """What the configuration says that the weights are quantized by, for example ``fp8``; None if dense."""
        quantization = self.claims.get("quantization_config")
        return str(quantization.get("quant_method")) if isinstance(quantization, dict) else None

    @cached_property
    def format(self) -> CheckpointFormat:
        """The form of the weights, whether it is supported or not."""
        return format_of(self)

    def require_loadable(self) -> None:
        """Make sure that the form is supported, and that what loads it is installed.

        Raises:
            ConfigurationError: not so.
        """
        if (reason := self.format.reason_not_to_load(self)) is not None:
            raise ConfigurationError(f"{self.path}: {reason}")

    @cached_property
    def weights(self) -> tuple[Path, ...]:
        """The files that loading would read the weights from: all there, in the directory."""
        if self.format.refuses is not None:
            raise ConfigurationError(f"{self.path}: {self.format.refuses(self)}")
        return self.format.weights(self)

    @cached_property
    def size(self) -> int:
        """Bytes of the weight files."""
        return sum(file.stat().st_size for file in self.weights)

    @cached_property
    def headers(self) -> Mapping[Path, Mapping[str, TensorHeader]]:
        """What each weight file says of its tensors, by name. The headers fit the files, and none is empty."""
        return {file: self.format.header(file) for file in self.weights}

    @cached_property
    def stored(self) -> Mapping[str, TensorHeader]:
        """All tensors by name, as they lie in the files."""
        return {name: self.headers[file][name] for name, file in self.places.items()}

    @cached_property
    def places(self) -> Mapping[str, Path]:
        """The file that holds each of these: one, as :func:`each_once` makes sure."""
        return each_once(self.headers)

    @cached_property
    def unpacked(self) -> Mapping[str, PackedMatrix]:
        """The matrices that are unpacked before transformers sees them, by the name that they have dense."""
        if self.format.unpacks is None:
            return {}
        if (reason := self.format.unavailable(self)) is not None:
            raise ConfigurationError(f"{self.path}: {reason}")
        return self.format.unpacks(self)

    @cached_property
    def packed(self) -> frozenset[str]:
        """The names of the tensors that those stand in."""
        return frozenset(part for matrix in self.unpacked.values() for part in matrix.parts.values())

    @cached_property
    def tensors(self) -> Mapping[str, TensorHeader]:
        """All tensors by name, as transformers sees them."""
        others = {name: header for name, header in self.stored.items() if name not in self.packed}
        return others | {name: matrix.header for name, matrix in self.unpacked.items()}

    @cached_property
    def parameters(self) -> int:
        """Number of values in the weight files."""
        return sum(math.prod(header.shape) for header in self.tensors.values())

    @cached_property
    def tokenizer_files(self) -> tuple[str, ...]:
        """The vocabularies that a tokenizer can be made of."""
        return tuple(name for name in TOKENIZER_FILES if name in self.names and (self.path / name).is_file())

    @cached_property
    def holds_tokenizer(self) -> bool:
        """Whether there is no such file, but a single one that holds a tokenizer besides the weights."""
        own = self.format.single_file
        return not self.tokenizer_files and own is not None and own.has_tokenizer(self)

    @cached_property
    def license_files(self) -> tuple[str, ...]:
        """Names at the top under which licences are kept."""
        return tuple(name for name in self.names if name.upper().startswith(_LICENSES))

    @cached_property
    def digest(self) -> str:
        """The hexadecimal root digest of the directory, as OpenSSF Model Signing computes it.

        SHA-256 over the concatenated raw SHA-256 digests of all files in :attr:`content`. Names are not hashed.
        """
        try:
            digests = read_several(sha256_file, [self.path / file for file in self.content])
        except OSError as error:
            raise _unreadable(error, self.path) from error
        if changed := self.changed:
            raise ConfigurationError(
                f"{changed[0]}: changed on disk while it was read. Leave it alone, and begin anew."
            )
        return root_digest(digests)

    @property
    def changed(self) -> tuple[Path, ...]:
        """The files that are not what they were when they were found: written, replaced, gone."""
        return tuple(changed_files({self.path / file: state for file, state in self.states.items()}))

    def require_tokenizer(self) -> None:
        """Make sure that a vocabulary is there: without one, transformers builds an empty tokenizer and says nothing.

        Raises:
            ConfigurationError: there is none.
        """
        if not (self.tokenizer_files or self.holds_tokenizer):
            raise ConfigurationError(
                f"{self.path}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)}). Save it beside the weights: "
                "tokenizer.save_pretrained(directory)."
            )


def changed_error(changed: Sequence[Path]) -> EvaluationError:
    """Return the error of files that are not what they were when this run read them."""
    others = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
    return EvaluationError(
        f"{changed[0]}: changed on disk while it was in use{others}, so nothing was certified. Leave the run's files "
        "alone; what comes next reads them anew."
    )


def model_path(spec: ModelSpec) -> Path:
    """Return the directory of a model, or the one file that is a model.

    Raises:
        ConfigurationError: the model has not been resolved to a directory, or it is none.
    """
    if spec.path is None:
        raise ConfigurationError(
            f"{spec.id}: no local directory is known for this model. Give its path, or allow the download "
            "(--proofpack-net=1)."
        )
    is_model = is_single_file(spec.path)
    if not (is_model or spec.path.is_dir()):
        problem = "is neither a directory nor a GGUF file" if spec.path.exists() else "does not exist"
        raise ConfigurationError(
            f"{spec.path}: {problem}. Name the directory that holds config.json and the weights, or a GGUF file."
        )
    return spec.path


def check_model_directory(spec: ModelSpec) -> None:
    """Make sure, without loading it, that a model directory holds what loading needs and nothing that misleads it.

    Checked: what :func:`check_checkpoint` checks, that tokenizer files are there, and that weights will be dense.

    Raises:
        ConfigurationError: with the first problem found, and what to do about it.
    """
    files = CheckpointFiles.of(spec)
    if files.format.addition is not None:
        raise ConfigurationError(
            f"{files.path}: is no model but what is added to one ({files.format.name}). Name the model by "
            "--proofpack-baseline, and this by --proofpack-subject."
        )
    check_checkpoint(spec)
    files.require_tokenizer()
    if files.format.loaded is Loaded.PACKED:
        raise ConfigurationError(
            f"{files.path}: is quantized by {files.quantization_method} and stays packed when it is loaded, so it can "
            "be judged, but is no baseline: its weights are compared with, and edited. Give the dense model that it "
            "was made from."
        )


def check_checkpoint(spec: ModelSpec) -> None:
    """Make sure, without loading it, that a directory holds a model or what is added to one; a tokenizer is not needed.

    Checked: ``config.json`` is strict JSON and names a model type; the format is supported, and what it needs is
    installed; the weights
    are one ``model.safetensors`` or an index whose shards are all there, inside the directory; every safetensors
    header fits its file; there is no second set of weights; pinned digests match. Links are fine as long as they end
    at a regular file (the hub cache uses them).

    Raises:
        ConfigurationError: with the first problem found, and what to do about it.
    """
    files = CheckpointFiles.of(spec)
    files.require_loadable()
    needs_type = files.format.addition is None
    if needs_type and files.format.single_file is None:
        _require_model_type(files)
    files.tensors  # noqa: B018 - reading their headers checks them
    if needs_type:
        _require_model_type(files)
        require_fitting_sizes(files)
        files.generation_config  # noqa: B018 - transformers passes over one that it can't read, and says nothing
    require_digested(files)
    require_one_set(files)
    require_true_index(files)
    _check_pins(files.path, spec)


def _require_model_type(files: CheckpointFiles) -> None:
    if not isinstance(files.config.get("model_type"), str):
        raise ConfigurationError(
            f"{files.path / CONFIG}: names no model_type, so nobody can tell which architecture to build. Add it."
        )


@lru_cache(maxsize=_KNOWN_DIRECTORIES)
def _known(
    path: Path, content: tuple[PurePosixPath, ...], states: tuple[FileState, ...], names: tuple[str, ...]
) -> CheckpointFiles:
    """Return the one object of a directory in this state."""
    return CheckpointFiles(path, content, states, names)


def _check_pins(path: Path, spec: ModelSpec) -> None:
    for name, expected in spec.sha256.items():
        if not is_inside(name) or not (path / name).is_file():
            raise ConfigurationError(
                f"{path}: {name} is pinned for {spec.id} but not there. Restore the model's files."
            )
        actual = sha256_file(path / name)
        if actual != expected.lower():
            raise ConfigurationError(
                f"{path / name}: its SHA-256 is {actual}, but {expected} is pinned for {spec.id}. The file was "
                "changed; restore it."
            )


def _unreadable(error: OSError, path: Path) -> ConfigurationError:
    return ConfigurationError(
        f"{error.filename or path}: cannot be read ({error.strerror or error}). Make the model's files readable."
    )

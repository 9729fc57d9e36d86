"""Which parquet files of a data set's repository hold a config's split: from its card, or from how files are laid out.

The card is the YAML front matter of the repository's README.md; its key ``configs`` says which files belong to which
config and split (https://huggingface.co/docs/hub/datasets-manual-configuration). Both listing and card come from
somebody else, so names that could lead out of the repository are refused and everything is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from pytest_proofpack.errors import ConfigurationError

MAX_PATHS = 1_000_000
"""Upper bound on files of a repository; the largest data sets have some hundred thousand."""
MAX_FILES = 10_000
"""Upper bound on files of one split."""
_MAX_COMPARISONS = 10_000_000
"""Upper bound on patterns with wildcards times files: a minute's work."""
_MAX_PATTERN_LENGTH = 400
_MAX_NAMED = 20
"""How many names an error message lists."""
_PARQUET = ".parquet"
_PLAIN_SPLIT = "train"
"""The split of files that a card lists without naming one."""
_CONVERTED = " At the revision refs/convert/parquet the hub keeps most data sets as parquet (text.revision)."
_WILDCARD = re.compile(r"[*?\[]")
_DEFAULT_FOLDERS = (".", "data", "default", "data/default")
_SHARD = re.compile(r"(?P<stem>.+)[-._](?P<number>[0-9]{1,9})-of-(?P<total>[0-9]{1,9})(?P<suffix>-[0-9a-f]{8,64})?")
_NUMBERED = re.compile(r"(?P<stem>.+?)[-_.]?[0-9]{1,9}")


def select_files(
    paths: Sequence[str], card: Mapping[str, Any] | None, config: str | None, split: str
) -> tuple[str, ...]:
    """Return the parquet files that hold a config's split, in the order in which they are to be read.

    Args:
        paths: every file of the repository, relative to its top, with forward slashes.
        card: the parsed front matter of its README.md, if it has one.
        config: None takes the card's default config, or the only one.
        split: ``train``, ``validation``, ...

    Raises:
        ConfigurationError: no file holds the split (the message lists what is there), some of its shards are missing,
            the card makes no sense, or a name leads out of the repository.
    """
    if len(paths) > MAX_PATHS:
        raise ConfigurationError(f"the data set has {len(paths)} files, more than the {MAX_PATHS} allowed.")
    files = sorted({path for path in paths if path.endswith(_PARQUET)})
    _refuse_unsafe(files)
    entries = _card_entries(card)
    if entries:
        entry = _choose_entry(entries, config)
        if "data_files" in entry:
            chosen = _listed(paths, files, _patterns(entry, split))
        else:
            chosen = _laid_out(files, _folders_of(entry), split)
    elif config in {None, "default"}:
        chosen = _laid_out(files, _DEFAULT_FOLDERS, split, only_one_will_do=config is None)
    else:
        chosen = _laid_out(files, (f"{config}", f"data/{config}"), split)
    if len(chosen) > MAX_FILES:
        raise ConfigurationError(
            f"split {split!r} of the data set has {len(chosen)} files, more than the {MAX_FILES} allowed. Choose a "
            "smaller config or split."
        )
    _require_whole(chosen)
    return chosen


def _refuse_unsafe(files: Iterable[str]) -> None:
    """Refuse a listing with a name that would end up elsewhere once it is joined to a directory."""
    for path in files:
        pure = PurePosixPath(path)
        if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or not path.isprintable():
            raise ConfigurationError(
                f"the data set has a file {path[:200]!r}, which is no plain path inside of it. Don't use this data set "
                "unless you know why."
            )


def _card_entries(card: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the configs of a card, in its order; none if it has none."""
    entries = (card or {}).get("configs") or []
    if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
        raise _bad_card("configs must be a list of mappings with config_name and data_files")
    return entries


def _config_name(entry: Mapping[str, Any]) -> str:
    return str(entry.get("config_name", "default"))


def _choose_entry(entries: Sequence[Mapping[str, Any]], config: str | None) -> Mapping[str, Any]:
    """Return the config that is asked for: by its name, or else the default or only one."""
    names = [_config_name(entry) for entry in entries]
    if config is not None:
        found = [entry for entry, name in zip(entries, names, strict=True) if name == config]
        problem = f"{len(found) or 'no'} configs {config!r}"
    else:
        found = [entry for entry in entries if entry.get("default") is True]
        found = found or [entry for entry, name in zip(entries, names, strict=True) if name == "default"]
        found = found or list(entries)
        problem = f"{len(found)} configs and none that is the default"
    if len(found) != 1:
        raise ConfigurationError(
            f"the data set has {problem}. Its card names {_names(names)}; give one as text.config."
        )
    return found[0]


def _folders_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """Return where the files of a config are looked for whose card does not list them."""
    folder, name = entry.get("data_dir"), _config_name(entry)
    if folder is None:
        return (name, f"data/{name}", *_DEFAULT_FOLDERS)
    return (str(PurePosixPath(str(folder))),)


def _patterns(entry: Mapping[str, Any], split: str) -> list[str]:
    """Return the patterns of a split's files, in the card's order.

    ``data_files`` is a pattern or a list of them, which are split ``train``, or a list of ``{split, path}`` where the
    path is a pattern or a list of them.
    """
    name, listed = _config_name(entry), entry["data_files"]
    items = listed if isinstance(listed, list) else [listed]
    by_split: dict[str, list[str]] = {}
    for item in items:
        of, path = (item.get("split"), item.get("path")) if isinstance(item, Mapping) else (_PLAIN_SPLIT, item)
        patterns: list[Any] = path if isinstance(path, list) else [path]
        if not isinstance(of, str) or not all(_is_pattern(pattern) for pattern in patterns):
            raise _bad_card(f"data_files of config {name!r} must be paths, or a list of split and path")
        listed_already = by_split.setdefault(of, [])
        listed_already.extend(patterns)
        if len(listed_already) > MAX_FILES:
            raise _bad_card(f"data_files of config {name!r} has more than {MAX_FILES} paths for split {of!r}")
    if split not in by_split:
        raise ConfigurationError(
            f"config {name!r} of the data set has no split {split!r}. It has {_names(by_split)}; give one as "
            "text.split."
        )
    return by_split[split]


def _is_pattern(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_PATTERN_LENGTH


def _listed(paths: Sequence[str], files: Sequence[str], patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the files that a card's patterns name, each once, sorted within each pattern."""
    wild = sum(_WILDCARD.search(pattern) is not None for pattern in patterns)
    if wild * len(files) > _MAX_COMPARISONS:
        raise _bad_card(f"data_files has {wild} patterns for one split, too many for {len(files)} files")
    known = frozenset(files)
    chosen: dict[str, None] = {}
    for pattern in patterns:
        pure = PurePosixPath(pattern)
        if pure.is_absolute() or ".." in pure.parts or "://" in pattern:
            raise _bad_card(f"data_files has {pattern[:200]!r}, which leads out of the data set")
        if _WILDCARD.search(pattern):
            found = [file for file in files if _matches(PurePosixPath(file).parts, pure.parts)]
        else:
            found = [str(pure)] if str(pure) in known else []
        if not found:
            others = [path for path in paths if _matches(PurePosixPath(path).parts, pure.parts)]
            raise ConfigurationError(
                f"the data set's card names {pattern[:200]!r}, but no parquet file is called so"
                + (f" ({_names(others)} is no parquet)" if others else "")
                + f". Choose another config or split.{_CONVERTED}"
            )
        chosen.update(dict.fromkeys(found))
    return tuple(chosen)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    """Tell whether a path fits a pattern, part by part; ``**`` stands for any number of parts, none included.

    Keeps the set of places in the pattern that can have been reached, so no pattern makes it backtrack.
    """
    places = {0}
    for part in parts:
        places = _past_any(places, pattern)
        places = {
            place + (pattern[place] != "**")
            for place in places
            if place < len(pattern) and (pattern[place] == "**" or fnmatchcase(part, pattern[place]))
        }
    return len(pattern) in _past_any(places, pattern)


def _past_any(places: set[int], pattern: Sequence[str]) -> set[int]:
    """Add the places that are reached by letting ``**`` stand for nothing."""
    reached = set(places)
    for place in places:
        following = place
        while following < len(pattern) and pattern[following] == "**":
            following += 1
            reached.add(following)
    return reached


def _laid_out(
    files: Sequence[str], folders: Sequence[str], split: str, *, only_one_will_do: bool = False
) -> tuple[str, ...]:
    """Return the files of a split where no card lists them.

    Looks in each folder for ``SPLIT-00000-of-00002.parquet``, for ``SPLIT.parquet`` or ``SPLIT-0.parquet``, and for
    anything in a folder ``SPLIT``. The first that there is wins.

    Args:
        files: the repository's parquet files.
        folders: where to look; ``.`` is the top.
        split: the split.
        only_one_will_do: if none of the folders has the split but one other has, take that.
    """
    homes: dict[str, dict[int, list[str]]] = {}
    for file in files:
        for folder, form in _homes(file, split):
            homes.setdefault(folder, {}).setdefault(form, []).append(file)
    home = next((folder for folder in folders if folder in homes), None)
    if home is None and only_one_will_do and len(homes) == 1:
        home = next(iter(homes))
    if home is None:
        there = f"There are {_names(map(_without_shard, files))}" if files else "It has no parquet files at all"
        raise ConfigurationError(
            f"the data set has no parquet files for split {split!r} in {_names(folders)}. {there}; give what you want "
            f"as text.config and text.split.{'' if files else _CONVERTED}"
        )
    forms = homes[home]
    return tuple(forms[min(forms)])


def _homes(file: str, split: str) -> Iterable[tuple[str, int]]:
    """Yield the folders in which a file would be one of the split's, each with its form: shard, single, in a folder."""
    path = PurePosixPath(file)
    shard, numbered = _SHARD.fullmatch(path.stem), _NUMBERED.fullmatch(path.stem)
    if shard is not None and shard["stem"] == split:
        yield str(path.parent), 0
    elif path.stem == split or (numbered is not None and numbered["stem"] == split):
        yield str(path.parent), 1
    if path.parent.name == split:
        yield str(path.parent.parent), 2


def _require_whole(files: Iterable[str]) -> None:
    """Make sure that of files called ``...-00000-of-00003`` each is there once, and no others."""
    found: dict[str, list[tuple[int, int]]] = {}
    for file in files:
        if (shard := _SHARD.fullmatch(PurePosixPath(file).stem)) is not None:
            found.setdefault(_without_shard(file), []).append((int(shard["number"]), int(shard["total"])))
    for stem, parts in found.items():
        total = parts[0][1]
        if len(parts) != total or len(set(parts)) != total or any(of != total or part >= of for part, of in parts):
            listed = ", ".join(f"{part:05d}-of-{of:05d}" for part, of in sorted(parts)[:_MAX_NAMED])
            raise ConfigurationError(
                f"the data set does not have all parts of {stem!r} once: of {total} it has {listed}"
                f"{', ...' if len(parts) > _MAX_NAMED else ''}. Complete the download, or choose another config, split "
                "or revision."
            )


def _without_shard(file: str) -> str:
    path = PurePosixPath(file)
    shard = _SHARD.fullmatch(path.stem)
    return str(path.parent / (shard["stem"] if shard else path.stem))


def _names(names: Iterable[str]) -> str:
    unique = list(dict.fromkeys(name[:200] for name in names))
    return ", ".join(map(repr, unique[:_MAX_NAMED])) + (", ..." if len(unique) > _MAX_NAMED else "")


def _bad_card(problem: str) -> ConfigurationError:
    return ConfigurationError(
        f"the card (README.md) of the data set: {problem}. Choose another revision, or tell the data set's owners."
    )

"""Every option of the plugin, in one table: its flag, environment variables, ini twin, default and allowed values.

pytest imports this module on every start, whether or not a proof pack is asked for, so it imports next to nothing;
looking values up is the business of :mod:`pytest_proofpack.config.settings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from pytest_proofpack.config.environment import CI, MODELS, RUNS, SIGN, FromEnvironment, first_of

if TYPE_CHECKING:
    import pytest

TIERS = ("balanced", "conservative", "aggressive")
PROFILES = ("dev", "ci", "release")
RUN_KINDS = ("calibration", "clean", "stress", "error")
_MAX_RUNS = 1000
_MAX_REPEATS = 1000


class Option(NamedTuple):
    """One option.

    Attributes:
        name: as in ``Settings``; the flag is ``--proofpack-NAME`` with dashes, the ini key ``proofpack_NAME``.
        help: one line for ``--help``.
        metavar: placeholder of the value; None for a switch.
        default: used where nothing else speaks.
        choices: allowed values; None for free text.
        environment: returns the value that the environment gives, or None, and knows the names of its variables.
        repeatable: may be given several times.
        ini: whether an ini file may set it.
        convert: parses the text; raises ValueError with what was expected.
        adds: of a repeatable one: what the environment gives comes first, and what is given elsewhere after it.
        verification: what it means to a session that verifies, where that is something else than ``help``.
    """

    name: str
    help: str
    metavar: str | None = None
    default: Any = None
    choices: tuple[str, ...] | None = None
    environment: FromEnvironment = FromEnvironment((), lambda _: None)
    repeatable: bool = False
    ini: bool = True
    convert: Callable[[str], Any] = str
    adds: bool = False
    verification: str = ""

    @property
    def flag(self) -> str:
        """The command-line flag."""
        return "--proofpack-" + self.name.replace("_", "-")

    @property
    def meaning(self) -> str:
        """What it means to any session."""
        return f"{self.help}; verification: {self.verification}" if self.verification else self.help

    @property
    def verifies(self) -> bool:
        """Whether it means something to a session that verifies."""
        return "verification:" in self.meaning

    @property
    def described(self) -> str:
        """What ``--help`` says: the meaning, and what that does not tell of choices, default and environment."""
        return self._with_facts(self.meaning)

    @property
    def described_for_makers(self) -> str:
        """The same for those who only make packs."""
        return self._with_facts(self.help)

    def _with_facts(self, text: str) -> str:
        facts = []
        if self.choices and not all(choice in self.help for choice in self.choices):
            facts.append(f"one of {', '.join(self.choices)}")
        if "default" not in self.help and (default := self._shown_default) is not None:
            facts.append(f"default: {default}")
        if self.environment.names:
            facts.append(f"environment: {', '.join(self.environment.names)}")
        begin = f"{text[:-1]}; " if text.endswith(")") else f"{text} ("
        return f"{begin}{'; '.join(facts)})" if facts else text

    @property
    def _shown_default(self) -> str | None:
        if self.metavar is None:
            return "off"
        default = int(self.default) if isinstance(self.default, bool) else self.default
        return None if default in (None, (), {}) else str(default)

    @property
    def dest(self) -> str:
        """Attribute of the parsed options and key of the ini file."""
        return "proofpack_" + self.name


def parse_runs(text: str) -> dict[str, int]:
    """Parse ``calibration:5,clean:3,stress:2,error:1``; kinds left out keep the suite's number.

    Raises:
        ValueError: another kind, or a number that is not allowed.
    """
    runs: dict[str, int] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        kind, _, number = part.partition(":")
        limit = 1 if kind == "error" else _MAX_RUNS
        if kind not in RUN_KINDS or not number.isdecimal() or int(number) > limit:
            raise ValueError(
                f"{part!r} is not understood; expected KIND:N with KIND one of {', '.join(RUN_KINDS)} and N a number "
                f"from 0 to {_MAX_RUNS} (error: 0 or 1)"
            )
        runs[kind] = int(number)
    return runs


def parse_repeats(text: str) -> int:
    """Parse how often a certificate is made again.

    Raises:
        ValueError: it is no number that is allowed.
    """
    if not text.isdecimal() or int(text) > _MAX_REPEATS:
        raise ValueError(f"{text!r} is not understood; expected a number from 0 to {_MAX_REPEATS}")
    return int(text)


def parse_shard(text: str) -> str:
    """Parse ``K/N``, one of N parts of a run; see :func:`shard_numbers`.

    Raises:
        ValueError: it is none.
    """
    number, separator, count = (piece.strip() for piece in text.partition("/"))
    known = separator and all(re.fullmatch("[1-9][0-9]{0,4}", digits) for digits in (number, count))
    if not known or int(number) > int(count):
        raise ValueError(f"{text!r} is not understood; expected K/N, part K of N, for example 2/4")
    return f"{number}/{count}"


def shard_numbers(shard: str) -> tuple[int, int]:
    """Return K and N of ``K/N``, as :func:`parse_shard` has it."""
    number, _, count = shard.partition("/")
    return int(number), int(count)


def parse_size(text: str) -> float:
    """Parse a positive number.

    Raises:
        ValueError: it is none.
    """
    return _parse_number(text, lambda value: value > 0, "a positive number")


def parse_seconds(text: str) -> float:
    """Parse a number of seconds, 0 included.

    Raises:
        ValueError: it is none.
    """
    return _parse_number(text, lambda value: value >= 0, "a number of seconds, 0 or more")


def _parse_number(text: str, accepts: Callable[[float], bool], expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not accepts(value) or value == float("inf"):
        raise ValueError(f"{text!r} is not understood; expected {expected}")
    return value


def _fact(text: str) -> str:
    from pytest_proofpack.config.ci_facts import parse_fact

    return parse_fact(text)


OPTIONS = (
    Option("suite", "certify a suite: tiny (embedded), smollm2, subset, full, or a TOML file", "NAME|FILE", ini=False),
    Option("verify", "verify a pack instead of running a suite", "DIR", ini=False),
    Option("baseline", "certify edited models of this one, see --proofpack-subject", "ID[@REV]|PATH", ini=False),
    Option(
        "subject",
        "an edited model to certify against --proofpack-baseline, or a directory of several (repeatable)",
        "ID[@REV]|PATH",
        (),
        repeatable=True,
        ini=False,
    ),
    Option(
        "edit_label",
        "what the subjects' edit is called (default: inferred from the subject's name, else custom)",
        "LABEL",
        ini=False,
    ),
    Option(
        "out",
        "run directory (default: ./proof_pack_runs/<suite>_<UTC time>)",
        "DIR",
        environment=first_of("PACK_OUTPUT_DIR", "OUTPUT_DIR"),
    ),
    Option(
        "resume",
        "go on with the run in --proofpack-out: make what is missing or no longer valid, reuse the rest",
        environment=first_of("RESUME_FLAG"),
    ),
    Option(
        "shard",
        "make the K-th of N parts of the certificates and no verdict; `proofpack assemble` puts the parts together",
        "K/N",
        convert=parse_shard,
    ),
    Option(
        "ray",
        "give the certificates to a Ray cluster instead of workers: auto, the address of its head, or local",
        "auto|ADDRESS",
    ),
    Option("pack_dir", "where the pack goes (default: <out>/proof_pack)", "DIR", environment=first_of("PACK_DIR")),
    Option("no_pack", "write certificates, reports and verdict, but no pack"),
    Option(
        "layout",
        "layout of the pack: v1 or v2",
        "v1|v2",
        "v1",
        ("v1", "v2"),
        environment=first_of("PACK_PACK_LAYOUT"),
    ),
    Option(
        "model",
        "replace the suite's models by this directory or id (repeatable)",
        "ID[@REV]|PATH",
        (),
        environment=MODELS,
        repeatable=True,
    ),
    Option(
        "net",
        "1: resolve, check, pin and download what the suite needs from the hub; 0: offline, from the cache",
        "0|1",
        False,
        ("0", "1"),
        environment=first_of("PACK_NET"),
        convert=lambda text: text == "1",
    ),
    Option(
        "revisions",
        "pinned revisions to use: the state/model_revisions.json of an earlier run",
        "FILE",
        environment=first_of("PACK_MODEL_REVISIONS_FILE"),
    ),
    Option("text", "evaluate on this .txt or .jsonl file instead of the suite's text", "PATH"),
    Option(
        "tuned_edit_params",
        "parameters of the clean edits (default: the suite's)",
        "FILE",
        environment=first_of("PACK_TUNED_EDIT_PARAMS_FILE"),
    ),
    Option(
        "mode",
        "full; calibrate-only: null runs and presets; run-only: certify with given presets; tune: find parameters of "
        "the clean edits",
        "MODE",
        "full",
        ("full", "calibrate-only", "run-only", "tune"),
        environment=first_of("PACK_SUITE_MODE"),
    ),
    Option(
        "tune",
        "auto: before the run, find parameters of the clean edits of models that have none of their own",
        "off|auto",
        "off",
        ("off", "auto"),
        environment=first_of("PACK_TUNE"),
    ),
    Option(
        "preset_dir",
        "reuse the calibration presets of an earlier run, and calibrate nothing",
        "DIR",
        environment=first_of("PACK_CALIBRATION_PRESET_DIR", "PACK_CALIBRATION_PRESET_FILE"),
    ),
    Option("tier", "policy tier", "TIER", "balanced", TIERS, environment=first_of("INVARLOCK_TIER")),
    Option(
        "profile",
        "dev: the tier alone; ci, release: more resamples, and release fails where the tier warns of a tail",
        "PROFILE",
        "dev",
        PROFILES,
        environment=first_of("PACK_VERIFY_PROFILE"),
    ),
    Option("limits", "thresholds of your own in place of the tier's: a TOML file with a table [limits]", "FILE"),
    Option(
        "determinism",
        "throughput, or strict: TF32 off, deterministic kernels",
        "MODE",
        "throughput",
        ("throughput", "strict"),
        environment=first_of("PACK_DETERMINISM"),
    ),
    Option(
        "runs",
        "how often each kind runs, for example calibration:5,clean:3,stress:2,error:1 (default: the suite's)",
        "KIND:N,...",
        {},
        environment=RUNS,
        convert=parse_runs,
    ),
    Option(
        "repeats",
        "make one certificate N times more, and write how far they differ",
        "N",
        0,
        environment=first_of("PACK_REPEATS"),
        convert=parse_repeats,
    ),
    Option("device", "auto, cpu, cuda or mps", "DEVICE", "auto", ("auto", "cpu", "cuda", "mps")),
    Option(
        "device_timeout",
        "wait at most this long for devices that another session has leased (default: 14400, which is 4 hours)",
        "SECONDS",
        14400.0,
        convert=parse_seconds,
    ),
    Option(
        "timeout",
        "end a worker whose item takes longer than this (default: 20 times the forecast, at least 600); the item is "
        "tried once more",
        "SECONDS",
        environment=first_of("PACK_TIMEOUT"),
        convert=parse_size,
    ),
    Option(
        "gpu_memory",
        "use at most this much of each GPU's memory, in GiB (default: all of it)",
        "GIB",
        environment=first_of("GPU_MEMORY_GB", "GPU_MEMORY_PER_DEVICE"),
        convert=parse_size,
    ),
    Option(
        "sign",
        "auto: sign if a key is there; required: fail without; off; or openpgp: required, by this signer",
        "MODE",
        "auto",
        environment=SIGN,
    ),
    Option("gpg_key", "fingerprint of the key to sign with, and no other: if it cannot, there is no pack", "FPR"),
    Option(
        "attest",
        "attest the pack: off; key (default with --proofpack-attest-key); or sigstore, which publishes",
        "NAME",
    ),
    Option(
        "attest_key",
        "attest with this ECDSA P-256 key (PEM, or env:NAME)",
        "FILE",
        (),
        repeatable=True,
        verification="trust this public key (repeatable)",
    ),
    Option("attest_trust_config", "the Sigstore instance of your own, its client trust config", "FILE"),
    Option("attest_identity", "verification: the attestation must be by this identity, certified by Sigstore", "WHO"),
    Option("attest_issuer", "verification: who has to vouch for that identity", "URL"),
    Option("trusted_key", "verification: accept only signatures by this key (repeatable)", "FPR", (), repeatable=True),
    Option("trusted_key_file", "verification: the same, by a public key in this file", "FILE", (), repeatable=True),
    Option("require_signature", "verification: an unsigned pack fails"),
    Option("require_verdict", "verification: demand this verdict", "PASS"),
    Option("expect_suite", "verification: demand the scenarios and the runs of this suite", "NAME|FILE"),
    Option("expect_model", "verification: demand this model (repeatable)", "ID[@REV]", (), repeatable=True),
    Option("min_tier", "verification: demand this tier or a stricter one", "TIER"),
    Option("min_format", "verification: demand certificates of this format or a newer one", "N"),
    Option("expect_text", "verification: demand this text, by its digest, data set or source", "TEXT"),
    Option("max_age", "verification: demand a pack that is at most this old: 12h, 30d, 8w", "AGE"),
    Option("not_before", "verification: demand a pack that was made on this day or later", "DATE"),
    Option("accept_unbound", "verification: accept packs whose signature covers no certificate, with a warning"),
    Option("allow_unknown_guards", "verification: accept numbers of guards that are not here, with a warning"),
    Option("json", "verification: write the result to this file", "FILE"),
    Option(
        "meta",
        "a fact for the manifest, commit=0123abc for one (repeatable); a CI's come by themselves, unless it is none",
        "KEY=VALUE",
        (),
        environment=CI,
        repeatable=True,
        convert=_fact,
        adds=True,
    ),
    Option(
        "keep_text", "keep in each certificate the text of the windows that lost most, not only the hash of its tokens"
    ),
    Option(
        "no_fork",
        "start each worker by itself, instead of forking it off a process that has imported torch",
        environment=first_of("PACK_NO_FORK"),
    ),
    Option("no_html", "write no HTML", environment=first_of("PACK_SKIP_HTML")),
)


def register(parser: pytest.Parser) -> None:
    """Register every option and its ini twin with pytest."""
    group = parser.getgroup("proofpack", "proof packs: certify edited language models")
    for option in OPTIONS:
        action: dict[str, Any] = {"action": "store_true"} if option.metavar is None else {"metavar": option.metavar}
        if option.repeatable:
            action["action"] = "append"
        group.addoption(option.flag, dest=option.dest, default=None, help=option.described, **action)
        if option.ini:
            if option.repeatable:
                parser.addini(option.dest, option.help, type="linelist", default=None)
            else:
                parser.addini(option.dest, option.help, default=None)

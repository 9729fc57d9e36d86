"""What integrations say is kept with the model, or said once, and never twice."""

from __future__ import annotations

import logging
import sys
import warnings

import pytest

from pytest_proofpack.models.quiet import prepare_package, quiet


def test_what_is_said_while_it_works_is_collected_once_and_nothing_reaches_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet() as messages:
        for _ in range(3):
            logging.getLogger("transformers.models").warning("of transformers")
            logging.getLogger("bitsandbytes.nn").warning("of bitsandbytes")
            warnings.warn("a warning", stacklevel=1)
            warnings.warn("for developers", DeprecationWarning, stacklevel=1)
        logging.getLogger("transformers").warning("LOAD REPORT of keys")
        sys.stderr.write("12 %")
    assert messages == ["of transformers", "of bitsandbytes", "a warning"]
    assert capfd.readouterr() == ("", "")


def test_loggers_are_as_before(caplog: pytest.LogCaptureFixture) -> None:
    with quiet():
        pass
    logging.getLogger("torchao").warning("still heard")
    assert [record.getMessage() for record in caplog.records] == ["still heard"]


def test_a_package_says_every_text_once(caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("own_package.forward")
    prepare_package("own-package")  # which is not installed: whoever needs it says so
    for _ in range(3):
        logger.warning("inputs will be cast from %s", "float32")
        logger.warning("inputs will be cast from %s", "bfloat16")
    assert [record.getMessage() for record in caplog.records] == [
        "inputs will be cast from float32",
        "inputs will be cast from bfloat16",
    ]

"""From text to windows, and the text sources that come with the package, in the order in which people read of them."""

from pytest_proofpack.text.hf_text import HF_TEXT
from pytest_proofpack.text.local_jsonl import LOCAL_JSONL
from pytest_proofpack.text.local_text import LOCAL_TEXT
from pytest_proofpack.text.synthetic import SYNTHETIC
from pytest_proofpack.text.wikitext2 import WIKITEXT2

SOURCES = (SYNTHETIC, LOCAL_TEXT, LOCAL_JSONL, WIKITEXT2, HF_TEXT)

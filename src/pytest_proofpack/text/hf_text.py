"""Any data set of the hub that has parquet files: every row is a document, or so many rows as are drawn of it."""

from __future__ import annotations

from pytest_proofpack.plan.text_sources import DATASET_KEYS, TextSource
from pytest_proofpack.text.local_files import dataset_texts

HF_TEXT = TextSource(
    name="hf_text",
    load=dataset_texts,
    needs=("dataset",),
    takes=(*DATASET_KEYS, "documents", "seed"),
    defaults={"split": "validation"},
    explains={"dataset": "the id of a data set, for example HuggingFaceFW/fineweb-edu"},
    is_dataset=True,
)

"""Where evaluation text can come from: the providers, and the keys that each takes in a suite."""

from __future__ import annotations

from collections.abc import Mapping

PROVIDERS = ("wikitext2", "hf_text")
"""Text providers that read a data set of the hub."""
PROVIDER_DEFAULTS: Mapping[str, Mapping[str, str]] = {
    "wikitext2": {"dataset": "Salesforce/wikitext", "config": "wikitext-2-raw-v1", "split": "validation"},
    "hf_text": {"split": "validation"},
}
"""What a suite's ``[text]`` need not say about them."""
_DATASET_KEYS = ("config", "revision", "split", "field", "path")
PROVIDER_KEYS = {
    "synthetic": ((), ("seed", "documents", "split")),
    "local_text": (("path",), ("split",)),
    "local_jsonl": (("path",), ("split", "field")),
    "wikitext2": ((), ("dataset", *_DATASET_KEYS)),
    "hf_text": (("dataset",), (*_DATASET_KEYS, "documents", "seed")),
}
"""The keys of ``[text]`` that each provider needs, and those that it takes besides."""

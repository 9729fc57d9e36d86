"""Certify what an edit did to a language model: signed, recomputable evidence, as a pytest plugin."""

__version__ = "0.1.0"

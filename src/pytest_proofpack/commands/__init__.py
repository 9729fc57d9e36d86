"""The sub-commands of ``proofpack``."""

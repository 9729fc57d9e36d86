"""Shared by all tests: pytester, and the root of the repository on the path."""

pytest_plugins = ["pytester"]

"""The extra ``certify``: the packages that making certificates needs, and verifying them does not."""

from __future__ import annotations

from importlib.util import find_spec

from pytest_proofpack.errors import ConfigurationError

MODULES = {
    "accelerate": "accelerate",
    "httpx2": "httpx2",
    "huggingface_hub": "huggingface_hub",
    "nvidia-ml-py": "pynvml",
    "psutil": "psutil",
    "pyarrow": "pyarrow",
    "pyyaml": "yaml",
    "safetensors": "safetensors",
    "torch": "torch",
    "transformers": "transformers",
}
"""Name of each package in pyproject.toml, and what is imported of it."""


def require_certify() -> None:
    """Make sure that the extra is installed; nothing of it is imported.

    Raises:
        ConfigurationError: something is missing; says what installs it.
    """
    missing = [package for package, module in MODULES.items() if find_spec(module) is None]
    if missing:
        raise ConfigurationError(
            f"to certify, install what verification does without ({', '.join(missing)}): "
            "pip install 'pytest-proofpack[certify]'"
        )

"""Whether the tools that a run calls can make what it asks for here: told before anything is loaded, all at once.

Nothing heavy is imported: the controller, which asks, computes nothing.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from pytest_proofpack.common.files import free_space
from pytest_proofpack.common.problems import refuse
from pytest_proofpack.common.strict_json import JsonObject
from pytest_proofpack.common.words import data_size
from pytest_proofpack.errors import ConfigurationError
from pytest_proofpack.guards.readings import AS_RUN, DEQUANTIZED
from pytest_proofpack.models.checkpoint_formats import CHECKPOINT_FORMATS, Loaded
from pytest_proofpack.models.files import CheckpointFiles
from pytest_proofpack.models.formats.safetensors import SAFETENSORS
from pytest_proofpack.plan.records import CertificateRequest, ModelSpec, RequestedEdit, ToolEdit
from pytest_proofpack.plan.tool_edits import TOOLS, recipe_of, spec_of
from pytest_proofpack.runs.paths import PRODUCT_PREFIX, PRODUCT_SUFFIX
from pytest_proofpack.runs.run import Run

_IN_A_BLOCK = re.compile(r"\.\d+\.")
_OTHER_HALVES = {"float32", "float16", "F32", "F16"}
"""Types that bfloat16 does not go together with, in the words of configurations and of safetensors."""


def tool_edits(requests: Iterable[CertificateRequest]) -> dict[tuple[str, ToolEdit], ModelSpec]:
    """Return what tools are to make: each once, by model and edit."""
    return {
        (request.model.id, request.edit): request.model for request in requests if isinstance(request.edit, ToolEdit)
    }


def require_tools(run: Run, device: str | None, processes: int) -> None:
    """Make sure that everything is there that a run's tools need.

    Args:
        run: the run, its models on this machine; what it reuses needs no tool.
        device: torch's kind of device; None where it is not known.
        processes: how many make certificates at the same time.

    Raises:
        ConfigurationError: a package is missing, a recipe has no kernel here or does not fit a model, or the disk has
            no room for what is made.
    """
    asked = tool_edits(run.to_be_made)
    problems = [problem for (_, edit), spec in asked.items() for problem in _problems(edit, spec, device)]
    refuse(list(dict.fromkeys(problems)), "")
    if asked:
        _require_room(run, max(map(needed_bytes, asked.values())), min(processes, len(asked)))


def remove_products(out: Path) -> None:
    """Remove what processes that were killed left of their products in a run directory; they have ended."""
    for folder in out.glob(f"{PRODUCT_PREFIX}*{PRODUCT_SUFFIX}"):
        shutil.rmtree(folder, ignore_errors=True)


def needed_bytes(spec: ModelSpec) -> int:
    """Return the most that a product of a model takes on disk, with the dense copy that it may be made from.

    What is quantized gets smaller, and nothing says by how much before it is.
    """
    from pytest_proofpack.devices.model_shapes import read_shape

    files = CheckpointFiles.of(spec)
    dense = max(files.size, read_shape(spec).weights)
    return dense if files.format is SAFETENSORS else 2 * dense


def tool_facts(edit: RequestedEdit) -> JsonObject | None:
    """Return the package that makes an edit, and its version here; None of an edit that no tool makes."""
    return _package(TOOLS[edit.tool].package) if isinstance(edit, ToolEdit) else None


def product_readings(run: Run) -> dict[str, JsonObject]:
    """Return how what tools make is read here, and by which versions it is made, before it is made, by scenario.

    As :func:`pytest_proofpack.runs.conditions.reading_of` reads it off a certificate.
    """
    edits = {request.scenario.id: request.edit for request in run.requests}
    return {scenario: _product_reading(edit) for scenario, edit in edits.items() if isinstance(edit, ToolEdit)}


def _product_reading(edit: ToolEdit) -> JsonObject:
    form = CHECKPOINT_FORMATS[recipe_of(edit).form]
    return {
        "losses": AS_RUN if form.loaded is Loaded.PACKED else DEQUANTIZED,
        "weights": DEQUANTIZED,
        "form": form.name,
        "package": _package(form.package) if form.package else None,
        "tool": tool_facts(edit),
    }


def _package(name: str) -> JsonObject:
    try:
        return {"name": name, "version": version(name)}
    except PackageNotFoundError:  # nothing is made then
        return {"name": name, "version": None}


def _problems(edit: ToolEdit, spec: ModelSpec, device: str | None) -> Iterator[str]:
    tool, recipe = TOOLS[edit.tool], recipe_of(edit)
    needed = (tool.package, CHECKPOINT_FORMATS[recipe.form].package)
    missing = [name for name in needed if name and find_spec(name.replace("-", "_")) is None]
    if missing:
        yield (
            f"tool:{tool.name}: the package {missing[0]} is not installed. Install it (pip install "
            f"{tool.installation}), or leave the scenarios out that call it"
        )
        return
    if recipe.gpu and device == "cpu":
        yield (
            f"{spec_of(edit)}: {tool.name} has a kernel for GPUs alone ({recipe.gpu}), and there is none here. Certify "
            "on a machine with one, or choose another recipe"
        )
    if (problem := _misfit(edit, spec, device)) is not None:
        yield f"{spec_of(edit)}: {spec.id} {problem}"


def _misfit(edit: ToolEdit, spec: ModelSpec, device: str | None) -> str | None:
    """Return in what a model's matrices don't fit a recipe, as its headers tell."""
    recipe, files = recipe_of(edit), CheckpointFiles.of(spec)
    matrices = [own for name, own in files.tensors.items() if len(own.shape) == 2 and _IN_A_BLOCK.search(name)]
    rows = sorted({own.shape[-1] for own in matrices})
    group = edit.group or 1
    if (odd := next((row for row in rows if row % group), None)) is not None:
        other = f": tool:{edit.tool}:{edit.recipe}:GROUP_SIZE" if recipe.any_group else ", or another recipe"
        return (
            f"has rows of {odd} values, no multiple of the {group} that share a scale. Choose another group size{other}"
        )
    if device == "cpu" and (odd := next((row for row in rows if row % recipe.whole), None)) is not None:
        return (
            f"has rows of {odd} values, no multiple of the {recipe.whole} that share a scale, which {edit.tool} "
            "unpacks to wrong values on a CPU. Certify it on a GPU, or choose another recipe"
        )
    said = files.text_config.get("dtype", files.text_config.get("torch_dtype"))
    types = {said} if isinstance(said, str) and files.format.single_file is None else {own.dtype for own in matrices}
    if recipe.half_only and (types & _OTHER_HALVES or files.format.single_file is not None):
        return "is not in bfloat16, in which alone this runs. Save it as bfloat16, or choose another recipe"
    return None


def _require_room(run: Run, size: int, products: int) -> None:
    """Make sure that what is made at the same time fits the run directory.

    Raises:
        ConfigurationError: it does not; says how much there is, and how much is needed.
    """
    try:
        free = free_space(run.out).bytes
    except OSError:
        return  # nobody can tell
    if free < products * size:
        raise ConfigurationError(
            f"--proofpack-out: the file system of {run.out} has {data_size(free)} left, and what tools make there "
            f"meanwhile may need {data_size(products * size)} ({products} at the same time). Make room, name a "
            "directory elsewhere, or use fewer workers."
        )

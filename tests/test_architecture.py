"""Two halves, and imports that point downward: checked by walking the imports of every module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import pytest_proofpack

PACKAGE = "pytest_proofpack"
ROOT = Path(pytest_proofpack.__file__).parent

# From the bottom to the top; a module may import from its own layer's entry upward in this list only what stands
# BEFORE it. A package counts as one entry; within it, cycles are looked for all the same.
LOWER = (
    "errors", "options", "stopwatch", "jsonio", "files", "records", "costs", "forecast", "assignment",
    "dataset_files", "editspec", "schemas", "guards", "memory_plan", "policy", "paired", "metric", "judge",
    "certificate", "calibration", "scenarios", "suites", "byoe", "settings", "verdict", "repeats", "explain",
    "synthetic", "revisions", "run", "sources", "report", "run_directory", "resume", "pack", "ending", "verify_cli",
)  # fmt: skip
TORCH = (
    "model_directory", "workload", "inventory", "leases", "slots", "model_shapes", "devices", "probing",
    "families", "edits", "parquet_text", "hub_cache", "hub_client", "hub", "preflight", "planning", "text",
    "models", "losses", "measures", "baseline", "subjects", "certify", "workbench",
)  # fmt: skip
PYTEST = (
    "items", "worker_loop", "scheduling", "progress", "device_hooks", "controller", "verification", "session",
    "plugin",
)  # fmt: skip
LAYERS = (*LOWER, *TORCH, *PYTEST)

HEAVY = ("torch", "transformers", "accelerate", "safetensors", "pyarrow", "huggingface_hub", "httpx2")
LAZY = (
    "torch",
    "transformers",
    "scipy",
    "jinja2",
    "numpy",
    "matplotlib",
    "jsonschema",
    "safetensors",
    "accelerate",
    "pyarrow",
    "huggingface_hub",
    "httpx2",
    "pynvml",
)


class Import(NamedTuple):
    """One import: what is imported, where, and whether only type checkers ever see it."""

    target: str
    line: int
    typing_only: bool
    inside_function: bool


def module_name(path: Path, root: Path = ROOT) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join((PACKAGE, *(parts[:-1] if parts[-1] == "__init__" else parts)))


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py")) if "suites" not in path.parts}


def imports_of(source: str) -> list[Import]:
    """List every import of a module's source, wherever it stands."""
    return list(_walk(ast.parse(source), typing_only=False, inside_function=False))


def _walk(node: ast.AST, *, typing_only: bool, inside_function: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(alias.name, child.lineno, typing_only, inside_function)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            for alias in child.names:
                yield Import(f"{child.module}.{alias.name}", child.lineno, typing_only, inside_function)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}:
            for statement in child.body:
                yield from _walk(ast.Module([statement], []), typing_only=True, inside_function=inside_function)
            for statement in child.orelse:
                yield from _walk(ast.Module([statement], []), typing_only=typing_only, inside_function=inside_function)
        else:
            deeper = inside_function or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _walk(child, typing_only=typing_only, inside_function=deeper)


def layer_of(name: str) -> str:
    """Return the entry of the list of layers that a module of this package belongs to."""
    return name.removeprefix(f"{PACKAGE}.").partition(".")[0]


def imported_module(target: str) -> str | None:
    """Return the module of this package that ``target`` names or lies in; None if it is another's."""
    while target:
        if target in MODULES:
            return target
        target = target.rpartition(".")[0]
    return None


def own_imports(name: str) -> Iterator[tuple[str, Import]]:
    """Yield the modules of this package that a module imports at run time."""
    for entry in imports_of(MODULES[name].read_text()):
        target = imported_module(entry.target)
        if target is not None and target != name and not entry.typing_only:
            yield target, entry


def test_every_module_has_a_layer_and_every_layer_a_module() -> None:
    assert {layer_of(name) for name in MODULES} - {PACKAGE} == set(LAYERS)


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) in LOWER])
def test_the_lower_half_knows_neither_torch_nor_pytest(name: str) -> None:
    forbidden = {*HEAVY, "pytest", "_pytest", "xdist"}
    for entry in imports_of(MODULES[name].read_text()):
        top = entry.target.partition(".")[0]
        assert entry.typing_only or top not in forbidden, f"{name}, line {entry.line}: imports {entry.target}"
        if entry.typing_only:
            assert top not in HEAVY, f"{name}, line {entry.line}: imports {entry.target}, if only for its types"


@pytest.mark.parametrize("name", [name for name in MODULES if layer_of(name) in TORCH])
def test_the_torch_half_does_not_know_pytest(name: str) -> None:
    for entry in imports_of(MODULES[name].read_text()):
        assert entry.target.partition(".")[0] not in {"pytest", "_pytest", "xdist"}, f"{name}, line {entry.line}"


@pytest.mark.parametrize("name", [name for name in MODULES if name != PACKAGE])
def test_imports_point_downward(name: str) -> None:
    height = LAYERS.index(layer_of(name))
    for target, entry in own_imports(name):
        if target == PACKAGE or layer_of(target) == layer_of(name):
            continue
        assert LAYERS.index(layer_of(target)) < height, f"{name}, line {entry.line}: {target} is not below it"


def test_there_is_no_circle() -> None:
    below = {name: {target for target, _ in own_imports(name)} for name in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"circle: {' -> '.join((*path[path.index(name) :], name))}"
        if name not in done:
            for target in sorted(below[name]):
                visit(target, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
from typing import TYPE_CHECKING
import a.b
if TYPE_CHECKING:
    from c import d
else:
    import e
class K:
    def method(self):
        try:
            from f import g, h
        except ImportError:
            import i
"""
    found = {entry.target: (entry.typing_only, entry.inside_function) for entry in imports_of(source)}
    assert found == {
        "typing.TYPE_CHECKING": (False, False),
        "a.b": (False, False),
        "c.d": (True, False),
        "e": (False, False),
        "f.g": (False, True),
        "f.h": (False, True),
        "i": (False, True),
    }


def loaded_after(program: str) -> set[str]:
    """Run a program in a fresh interpreter and return the top-level modules that it loaded."""
    show = "import sys; print(' '.join({name.partition('.')[0] for name in sys.modules}))"
    result = subprocess.run([sys.executable, "-c", f"{program}\n{show}"], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_a_start_of_pytest_loads_next_to_nothing() -> None:
    loaded = loaded_after("import pytest_proofpack.plugin.hooks")
    assert PACKAGE in loaded
    assert not loaded & set(LAZY)


def test_verification_without_pytest_loads_neither_it_nor_torch() -> None:
    names = [name for name in MODULES if layer_of(name) in LOWER]
    loaded = loaded_after("import importlib\n" + "\n".join(f"importlib.import_module({name!r})" for name in names))
    assert not loaded & {*HEAVY, "pytest", "_pytest", "matplotlib"}

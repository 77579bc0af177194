"""Imports between the modules of the package point one way only, and the pure modules stay pure."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import hf_transfer

PACKAGE = Path(hf_transfer.__file__).parent
# Modules, or packages with all in them; each may import what stands before it, and what is in the same package.
_LINES = (
    "errors run_files collision utils",
    "architectures plans data models",
    "solvers features feature_cache linear_probe evaluation",
    "phases figures checkpoints reporting hub",
    "trainer diagnosis demo doctor cli __main__",
)
ORDER = [name for line in _LINES for name in line.split()]


@dataclass(frozen=True)
class Import:
    """One import, as absolute name of a module (or of a name in it)."""

    target: str
    line: int
    at_top: bool
    typing_only: bool


def _modules() -> dict[str, Path]:
    """Path of each module by its name below the package; packages by their own name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found.pop("")
    return found


def _imports_of(path: Path) -> list[Import]:
    package = (PACKAGE.name, *path.relative_to(PACKAGE).parts[:-1])
    return list(_imports(path.read_text(encoding="utf-8"), package))


def _imports(source: str, package: tuple[str, ...]) -> Iterator[Import]:
    """All imports of a module that lies in `package`."""
    tree = ast.parse(source)
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    guarded = {id(inner) for guard in guards for statement in guard.body for inner in ast.walk(statement)}
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    inside = {id(inner) for function in functions for inner in ast.walk(function)}
    for node in ast.walk(tree):
        for target in _targets(node, package):
            yield Import(target, node.lineno, id(node) not in inside, id(node) in guarded)


def _targets(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    """Absolute names that a statement imports; also import_module of a literal name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        above = package[: len(package) - node.level + 1] if node.level else ()
        base = ".".join([*above, *([node.module] if node.module else [])])
        return [f"{base}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in ("import_module", "__import__"):
        return [str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant)]
    return []


def _place(name: str) -> str:
    """The entry of ORDER that a module of the package belongs to."""
    return name.split(".")[0]


MODULES = _modules()


def test_every_module_has_a_place() -> None:
    """A new module is put into ORDER, where its place in the whole is decided; names that are gone are taken out."""
    assert {_place(name) for name in MODULES} == set(ORDER)
    assert len(ORDER) == len(set(ORDER))


def test_contributing_shows_the_order() -> None:
    """The table of packages in CONTRIBUTING.md has each of them, in the order of imports."""
    text = (PACKAGE.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text[text.index("| in `hf_transfer/` |") :].partition("\n\n")[0]
    assert re.findall(r"^\| `(\w+)(?:/|\.py)`", table, re.MULTILINE) == [name for name in ORDER if name != "__main__"]


def test_contributing_names_files_that_exist() -> None:
    """Each Python file in CONTRIBUTING.md is there, by its path in the package or in the clone, or by its name."""
    root = PACKAGE.parent
    named = re.findall(r"`([\w/]+\.py)`", (root / "CONTRIBUTING.md").read_text(encoding="utf-8"))
    tree = [
        path for folder in ("hf_transfer", "tests", "scripts", "benchmarks") for path in (root / folder).rglob("*.py")
    ]
    assert len(named) > 20
    assert not [name for name in named if not any(f"/{path.relative_to(root)}".endswith(f"/{name}") for path in tree)]


@pytest.mark.parametrize("name", MODULES)
def test_imports_point_to_earlier_modules(name: str) -> None:
    """At the top, inside functions and for types alone, a module imports only what comes before it."""
    place = _place(name)
    wrong = []
    for found in _imports_of(MODULES[name]):
        package, _, inner = found.target.partition(".")
        if package != PACKAGE.name:
            continue
        target = _place(inner)
        if target not in ORDER:  # a name of hf_transfer/__init__.py, such as __version__
            assert target in ("", "__version__"), f"line {found.line}: import {target} from its own module"
        elif target != place and ORDER.index(target) > ORDER.index(place):
            wrong.append(f"line {found.line}: {found.target}")
    assert not wrong, f"{name} imports later modules: {wrong}"


def _module_of(target: str) -> str | None:
    """The module of the package that an import names, or that holds the name that it imports."""
    package, _, name = target.partition(".")
    while package == PACKAGE.name and name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name if package == PACKAGE.name and name else None


def test_no_module_imports_itself_by_way_of_others() -> None:
    """There are no circles of modules: neither at run time nor in imports for types alone."""
    imports = {
        name: {_module_of(i.target) for i in _imports_of(path)} - {name, None} for name, path in MODULES.items()
    }
    while leaves := {name for name, targets in imports.items() if not targets & set(imports)}:
        imports = {name: targets for name, targets in imports.items() if name not in leaves}
    assert not imports, f"in circles, or behind one: {sorted(imports)}"


def test_the_root_holds_few_modules() -> None:
    """A newcomer finds a file by its folder: at most eight modules at the root, and no package of one."""
    assert len(list(PACKAGE.glob("*.py"))) <= 8
    for folder in (path for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()):
        assert len(list(folder.glob("*.py"))) >= 2, folder.name


_DECIDING = ("measurements", "priors", "rules", "candidates", "reasons", "decide")


@pytest.mark.parametrize(
    "name",
    ["errors", "architectures.selectors", "plans.plan", "plans.recipes", *(f"diagnosis.{each}" for each in _DECIDING)],
)
def test_pure_modules(name: str) -> None:
    """Rules on names know no transformers anywhere, and torch at most for types."""
    for found in _imports_of(MODULES[name]):
        package = found.target.split(".")[0]
        assert package not in ("transformers", "timm", "datasets", "accelerate", "numpy"), f"line {found.line}"
        if package == "torch":
            assert name == "plans.plan" and found.typing_only, f"line {found.line}"


def test_the_package_itself_imports_nothing_heavy() -> None:
    """hf_transfer/__init__.py imports the standard library alone, besides what is for types alone."""
    tops = {i.target.split(".")[0] for i in _imports_of(PACKAGE / "__init__.py") if i.at_top and not i.typing_only}
    assert tops == {"__future__", "importlib", "typing"}


@pytest.mark.parametrize("name", MODULES)
def test_module_size(name: str) -> None:
    """A file that one can read at a sitting: at most 400 lines."""
    assert len(MODULES[name].read_text(encoding="utf-8").splitlines()) <= 400


def test_the_reader_of_imports() -> None:
    """The check itself sees imports at the top, in functions, under TYPE_CHECKING, relative ones and by name."""
    source = (
        "import torch.nn as nn\n"
        "from typing import TYPE_CHECKING\n"
        "from . import options\n"
        "from ..plan import Phase\n"
        "if TYPE_CHECKING:\n    from hf_transfer import card\n"
        "def f():\n    import hf_transfer.demo\n    importlib.import_module('hf_transfer.data')\n"
    )
    found = sorted(_imports(source, ("hf_transfer", "cli")), key=lambda each: each.line)
    assert found == [
        Import("torch.nn", 1, at_top=True, typing_only=False),
        Import("typing.TYPE_CHECKING", 2, at_top=True, typing_only=False),
        Import("hf_transfer.cli.options", 3, at_top=True, typing_only=False),
        Import("hf_transfer.plan.Phase", 4, at_top=True, typing_only=False),
        Import("hf_transfer.card", 6, at_top=True, typing_only=True),
        Import("hf_transfer.demo", 8, at_top=False, typing_only=False),
        Import("hf_transfer.data", 9, at_top=False, typing_only=False),
    ]

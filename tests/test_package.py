"""The package as a whole: it imports in no time, offers what it names, and explains what it is not."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import pytest

import hf_transfer as ht

HEAVY = ("torch", "transformers", "numpy", "timm", "datasets", "evaluate", "sklearn", "matplotlib", "rich", "yaml")


def _loaded_by(statement: str) -> list[str]:
    """Heavy packages that are in sys.modules of a fresh process after a statement."""
    script = f"{statement}\nimport sys\nprint([n for n in {HEAVY!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return ast.literal_eval(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "statement",
    [
        "import hf_transfer",
        "from hf_transfer import LayerGroup, Phase, TransferPlan, recipes; recipes.get('lp_ft').to_dict()",
        "import hf_transfer.plans.plan, hf_transfer.plans.recipes, hf_transfer.errors",
    ],
)
def test_nothing_heavy_is_imported(statement: str) -> None:
    """The package, plans and recipes work without torch, transformers or numpy being loaded."""
    assert _loaded_by(statement) == []


@pytest.mark.slow
def test_every_public_name_resolves() -> None:
    """All names of __all__ can be had, time and again the same object, even after all modules are imported."""
    first = {name: getattr(ht, name) for name in ht.__all__}
    for home in set(ht._HOME.values()):
        importlib.import_module(f"hf_transfer.{home}")
    assert {name: getattr(ht, name) for name in ht.__all__} == first
    for name, found in first.items():
        if name in ht._HOME:
            assert found.__name__ == name
            assert found.__module__ == f"hf_transfer.{ht._HOME[name]}"
    assert first["recipes"].__name__ == "hf_transfer.plans.recipes"


def test_no_public_name_is_a_module_by_accident() -> None:
    """No submodule has the name of a public function, which importing the submodule would hide."""
    modules = {path.stem for path in Path(ht.__file__).parent.iterdir()}
    assert modules & set(ht.__all__) == set()


def test_the_lists_of_names_agree() -> None:
    """__all__, the table of lazy imports, dir() and the imports for type checkers name the same things."""
    assert sorted(ht.__all__) == ht.__all__
    assert {*ht._HOME, "recipes"} == set(ht.__all__)
    listed = dir(ht)
    assert set(ht.__all__) <= set(listed)
    assert len(listed) == len(set(listed))
    tree = ast.parse(Path(ht.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert typed == {name: f"hf_transfer.{home}" for name, home in ht._HOME.items()} | {"recipes": "hf_transfer.plans"}


def test_star_import() -> None:
    """`from hf_transfer import *` gives the public names and nothing else."""
    namespace: dict[str, object] = {}
    exec("from hf_transfer import *", namespace)
    assert set(namespace) - {"__builtins__"} == set(ht.__all__)


@pytest.mark.parametrize("name", ["download", "multipart_upload"])
def test_the_retired_downloader_is_explained(name: str) -> None:
    """Old huggingface_hub calls these: RuntimeError, not AttributeError, with what to do about it."""
    with pytest.raises(RuntimeError, match=f"hf_transfer.{name} belongs to the retired") as caught:
        getattr(ht, name)
    for part in ("hf-transfer-learning", "HF_HUB_ENABLE_HF_TRANSFER", "huggingface_hub", "hf-transfer doctor"):
        assert part in str(caught.value)
    with pytest.raises(RuntimeError):
        exec(f"from hf_transfer import {name}")


def test_an_unknown_name_is_an_attribute_error() -> None:
    """hasattr and getattr with a default work as for any module."""
    with pytest.raises(AttributeError, match="'hf_transfer' has no attribute 'warp'"):
        _ = ht.warp
    assert not hasattr(ht, "__wrapped__")
    with pytest.raises(ImportError):
        exec("from hf_transfer import warp")


def test_the_version_is_that_of_the_distribution() -> None:
    """`__version__` and the installed distribution agree, and the version is one."""
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", ht.__version__)
    assert importlib.metadata.version("hf-transfer-learning") == ht.__version__


def test_types_are_shipped() -> None:
    """The marker that tells type checkers to read the annotations is there."""
    assert (Path(ht.__file__).parent / "py.typed").is_file()

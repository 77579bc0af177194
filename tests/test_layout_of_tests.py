"""The tests mirror the package: whoever knows where something is finds where it is tested, and the other way round."""

from __future__ import annotations

from pathlib import Path

import pytest

import hf_transfer

PACKAGE = Path(hf_transfer.__file__).parent
TESTS = Path(__file__).parent
# Folders that stand for no package of hf_transfer.
OTHERS = {
    "distributed": "scripts that torch starts in several processes, and their tests",
    "gpu": "what is run by hand where there are GPUs",
    "helpers": "what tests share",
}
# Test files that stand for no module of the package that their folder is named after.
OF_NO_MODULE = {
    "architectures/every_transformers_class": "a sweep over all classes of transformers",
    "architectures/timm_running": "a sweep over all families of timm",
    "architectures/timm_structure": "a sweep over all models of timm",
    "architectures/timm_table": "scripts/architecture_tables",
    "cli/bad_input_table": "all commands",
    "cli/main": "cli/__init__.py",
    "cli/printed_commands": "all commands that print others",
    "demo/data": "demo/__init__.py and scripts/make_demo_data.py",
    "diagnosis/controlled": "an experiment on the whole diagnosis",
}
FOLDERS = sorted(path.name for path in TESTS.iterdir() if path.is_dir() and any(path.glob("**/*.py")))
FILES = sorted(path for folder in FOLDERS if folder not in OTHERS for path in (TESTS / folder).glob("test_*.py"))


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem.removeprefix('test_')}"


def test_every_package_has_a_folder() -> None:
    """Each package of hf_transfer has a folder of its name, and no folder is left from a package that is gone."""
    packages = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert set(FOLDERS) == packages | set(OTHERS)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_file_has_a_module(path: Path) -> None:
    """test_<module>.py or test_<module>_<aspect>.py is of a module of the package, and test_<package>.py of it all."""
    folder, name = _name(path).split("/")
    modules = {each.stem for each in (PACKAGE / folder).glob("*.py")} | {folder}
    has_one = any(f"{name}_".startswith(f"{module}_") for module in modules)
    assert has_one != (_name(path) in OF_NO_MODULE), "name it after its module, or give a reason in OF_NO_MODULE"


def test_reasons_are_given_for_files_that_exist() -> None:
    """Nothing is left in the lists from files that are gone."""
    assert set(OF_NO_MODULE) <= {_name(path) for path in FILES}

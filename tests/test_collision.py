"""The name collision with the retired downloader, in every order of installing and uninstalling.

Most tests lay out the files as pip leaves them (which the slow test at the end proves with pip itself).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hf_transfer import collision
from hf_transfer.collision import DOWNLOADER, NEITHER, OURS, detect, shorten_home

OUR_INIT = '"""Transfer learning."""\n__version__ = "0.1.0"\n'
DOWNLOADER_INIT = "from .hf_transfer import *\n\n__doc__ = hf_transfer.__doc__\n"
REPOSITORY = Path(__file__).parent.parent


def install(site: Path, name: str, version: str, init: str | None, origin: dict[str, object] | None = None) -> None:
    """Write what pip writes for a distribution; `init` None is an editable one, which places no package file."""
    stem = name.replace("-", "_")
    info = site / f"{stem}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n")
    record = [f"{info.name}/METADATA,,", f"{info.name}/RECORD,,"]
    if init is None:
        record.append(f"_editable_impl_{stem}.pth,,")
    else:
        (site / "hf_transfer").mkdir(exist_ok=True)
        (site / "hf_transfer" / "__init__.py").write_text(init)
        record.append("hf_transfer/__init__.py,sha256=x,1")
    if origin is not None:
        (info / "direct_url.json").write_text(json.dumps(origin))
    (info / "RECORD").write_text("\n".join(record) + "\n")


def install_ours(site: Path, origin: dict[str, object] | None = None) -> None:
    install(site, OURS, "0.1.0", OUR_INIT, origin)


def install_downloader(site: Path) -> None:
    install(site, DOWNLOADER, "0.1.9", DOWNLOADER_INIT)


def test_ours_alone_is_no_collision(tmp_path: Path) -> None:
    """A whole installation of ours, or none at all, is nothing to report."""
    assert detect([str(tmp_path)]) is None
    install_ours(tmp_path)
    assert detect([str(tmp_path)]) is None


def test_downloader_first(tmp_path: Path) -> None:
    """Ours installed over the downloader: both are named with versions, and ours is in force."""
    install_downloader(tmp_path)
    install_ours(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert (found.distributions, found.versions) == ((OURS, DOWNLOADER), ("0.1.0", "0.1.9"))
    assert found.init_in_force == OURS
    assert "uninstalling the other one would delete it" in found.describe()


def test_downloader_second(tmp_path: Path) -> None:
    """The downloader installed over ours: its file is in force, and the message says what follows."""
    install_ours(tmp_path)
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert found.init_in_force == DOWNLOADER
    assert "`import hf_transfer` does not give this library" in found.describe()


def test_damage_after_the_downloader_is_gone(tmp_path: Path) -> None:
    """Uninstalling the downloader deleted our file: reported, and repaired by installing ours again."""
    install_ours(tmp_path)
    (tmp_path / "hf_transfer" / "__init__.py").unlink()
    found = detect([str(tmp_path)])
    assert found is not None
    assert (found.distributions, found.init_in_force) == ((OURS,), NEITHER)
    assert "the file is gone" in found.describe()
    assert " uninstall " not in found.repair
    assert found.repair.endswith("install --force-reinstall --no-deps hf-transfer-learning==0.1.0")


def test_foreign_file_without_its_distribution(tmp_path: Path) -> None:
    """The downloader's file that was copied over ours, without metadata, is recognised by its content."""
    install(tmp_path, OURS, "0.1.0", DOWNLOADER_INIT)
    found = detect([str(tmp_path)])
    assert found is not None
    assert found.init_in_force == DOWNLOADER


def test_both_are_uninstalled_before_ours_is_installed(tmp_path: Path) -> None:
    """The repair is one command line in the only order that works, for the very Python that runs."""
    install_ours(tmp_path)
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    uninstall, reinstall = found.repair.split(" && ")
    assert uninstall.endswith("-m pip uninstall -y hf-transfer hf-transfer-learning")
    assert reinstall.endswith("-m pip install --force-reinstall --no-deps hf-transfer-learning==0.1.0")
    assert uninstall.startswith(shorten_home(sys.executable))


def test_editable_installation_only_loses_the_downloader(tmp_path: Path) -> None:
    """An editable installation has no file to restore: removing the downloader is the whole repair."""
    install(tmp_path, OURS, "0.1.0", None)
    assert detect([str(tmp_path)]) is None
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert found.init_in_force == DOWNLOADER
    assert found.repair.endswith("-m pip uninstall -y hf-transfer")


def test_downloader_beside_sources_that_are_not_installed(tmp_path: Path) -> None:
    """Running from a source folder, the downloader in the environment is reported as well."""
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert found.distributions == (DOWNLOADER,)
    assert found.repair.endswith("-m pip uninstall -y hf-transfer")


def test_first_folder_of_the_path_is_in_force(tmp_path: Path) -> None:
    """In two site folders (a virtual environment over the system's), the first one's file counts."""
    ours, theirs = tmp_path / "a", tmp_path / "b"
    install_ours(ours)
    install_downloader(theirs)
    found = [detect([str(first), str(second)]) for first, second in ((ours, theirs), (theirs, ours))]
    assert [each.init_in_force for each in found if each] == [OURS, DOWNLOADER]


def test_repair_installs_from_where_ours_came(tmp_path: Path) -> None:
    """A local file that still exists, and a repository at its commit, are used again; a lost file is not."""
    wheel = tmp_path / "my wheels" / "ours.whl"
    wheel.parent.mkdir()
    wheel.touch()
    repository = {"url": "https://example.org/ours.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    origins = [{"url": wheel.as_uri()}, {"url": (tmp_path / "lost.whl").as_uri()}, repository]
    repairs = []
    for number, origin in enumerate(origins):
        install_ours(tmp_path / str(number), origin)
        install_downloader(tmp_path / str(number))
        found = detect([str(tmp_path / str(number))])
        assert found is not None
        repairs.append(found.repair)
    assert repairs[0].endswith(f"--no-deps '{wheel}'")
    assert repairs[1].endswith("--no-deps hf-transfer-learning==0.1.0")
    assert repairs[2].endswith("--no-deps 'hf-transfer-learning @ git+https://example.org/ours.git@abc'")


def test_environment_without_pip_gets_uv_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that uv made has no pip: the commands are uv's, for this Python."""
    monkeypatch.setattr(collision.importlib.util, "find_spec", lambda name: None)
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert found.repair == f"uv pip uninstall --python {shorten_home(sys.executable)} hf-transfer"


def test_home_is_shortened_and_still_expands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's home is written as ~, outside of quotes; a folder that merely begins alike is left."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert shorten_home(f"{tmp_path}/x and {tmp_path}") == "~/x and ~"
    assert shorten_home(f"{tmp_path}na/x") == f"{tmp_path}na/x"
    monkeypatch.setattr(sys, "executable", f"{tmp_path}/my env/bin/python")
    assert collision.pip_command("list") == "~/'my env/bin/python' -m pip list"


def test_plain_types_for_json(tmp_path: Path) -> None:
    """The dictionary of a collision survives JSON."""
    install_downloader(tmp_path)
    found = detect([str(tmp_path)])
    assert found is not None
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
    assert set(found.to_dict()) == {"distributions", "versions", "init_in_force", "repair"}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        list(map(str, command)), cwd=Path(command[0]).parent, env=environment, capture_output=True, text=True
    )


def build_fake_downloader(folder: Path) -> Path:
    """Build a wheel with the file layout of hf-transfer 0.1.9, its compiled module replaced by a Python one."""
    path = folder / "hf_transfer-0.1.9-py3-none-any.whl"
    info = "hf_transfer-0.1.9.dist-info"
    files = {
        "hf_transfer/__init__.py": DOWNLOADER_INIT,
        "hf_transfer/hf_transfer.py": "def download() -> None: ...\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: hf_transfer\nVersion: 0.1.9\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in files.items():
            wheel.writestr(name, content)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\n" for name in [*files, f"{info}/RECORD"]))
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Our real wheel, built without a network from a copy of the sources, and the downloader's double."""
    source = tmp_path_factory.mktemp("source")
    shutil.copytree(REPOSITORY / "hf_transfer", source / "hf_transfer", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    target = tmp_path_factory.mktemp("wheels")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", target, source)
    built = run(sys.executable, "-m", "pip", "wheel", *options)
    assert built.returncode == 0, f"needs hatchling in this environment\n{built.stderr}"
    return {OURS: next(target.glob("hf_transfer_learning-*.whl")), DOWNLOADER: build_fake_downloader(target)}


class Environment:
    """A virtual environment that the test's own pip installs into."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
        self.python = folder / "bin" / "python"

    def pip(self, *arguments: str | Path) -> None:
        result = run(sys.executable, "-m", "pip", "--python", self.python, *arguments)
        assert result.returncode == 0, result.stderr

    def install(self, wheel: Path) -> None:
        self.pip("install", "--no-deps", "--no-index", wheel)

    def doctor(self) -> dict[str, object] | None:
        """Run `python -m hf_transfer.doctor` there; without torch and all others it finds problems, never crashes."""
        result = run(self.python, "-m", "hf_transfer.doctor", "--json")
        assert (result.returncode, result.stderr) == (1, "")
        found: dict[str, object] | None = json.loads(result.stdout)["collision"]
        return found


@pytest.mark.slow
@pytest.mark.parametrize(("order", "in_force"), [((DOWNLOADER, OURS), OURS), ((OURS, DOWNLOADER), DOWNLOADER)])
def test_real_installations(wheels: dict[str, Path], tmp_path: Path, order: tuple[str, str], in_force: str) -> None:
    """pip itself, both orders: the doctor runs and sees it, before and after the downloader is uninstalled."""
    environment = Environment(tmp_path / "an env")
    for name in order:
        environment.install(wheels[name])
    found = environment.doctor()
    assert found is not None
    assert (found["distributions"], found["init_in_force"]) == ([OURS, DOWNLOADER], in_force)

    environment.pip("uninstall", "-y", DOWNLOADER)
    damaged = environment.doctor()
    assert damaged is not None
    assert (damaged["distributions"], damaged["init_in_force"]) == ([OURS], NEITHER)


@pytest.mark.slow
@pytest.mark.parametrize("order", [(DOWNLOADER, OURS), (OURS, DOWNLOADER)])
def test_repair_works(wheels: dict[str, Path], tmp_path: Path, order: tuple[str, str]) -> None:
    """The steps that the doctor prints, carried out by pip, leave ours whole and nothing to report."""
    environment = Environment(tmp_path / "env")
    for name in order:
        environment.install(wheels[name])
    found = environment.doctor()
    assert found is not None
    for step in str(found["repair"]).split(" && "):
        # Everything after "uv pip COMMAND --python PYTHON" is pip's own: this environment has no pip.
        command, arguments = step.split(" ")[2], step.split(" ")[5:]
        environment.pip(command, *(["-y"] if command == "uninstall" else ["--no-index"]), *arguments)
    assert environment.doctor() is None
    check = "import hf_transfer; assert 'wrap' in hf_transfer.__all__"
    assert run(environment.python, "-c", check).returncode == 0

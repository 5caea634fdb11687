"""The wheel: the library alone, which works wherever it is installed, without Lightning and without the checkout."""

import email
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.processes
LEFT_OUT = (".*", "runs", "data", "wandb", "build", "__pycache__", "*.egg-info")  # what belongs to no source tree
# runs pieces of code one after the other and says of each what it left: an error, the modules, the search path
PROGRAM = """
import json, sys, traceback
reports = []
for piece in json.loads(sys.stdin.read()):
    try:
        exec(piece, {})
        error = None
    except Exception:
        error = traceback.format_exc()
    reports.append({"error": error, "modules": sorted({name.split(".")[0] for name in sys.modules}), "path": sys.path})
import medrobust
print(json.dumps({"library": medrobust.__file__, "reports": reports}))
"""
IMPORT_ALL = """
import importlib, pkgutil
import medrobust
names = [module.name for module in pkgutil.walk_packages(medrobust.__path__, "medrobust.")]
assert len(names) > 50, names
for name in names:
    importlib.import_module(name)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the checkout, so that nothing is left behind there."""
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("building the wheel takes setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*LEFT_OUT))
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")],
        check=True,
        capture_output=True,
        timeout=120,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder that holds the installed wheel and nothing else."""
    folder = wheel.parent / "installed"
    options = ("--no-deps", "--no-index", "--no-compile", "--target", str(folder))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, str(wheel)], check=True, capture_output=True, timeout=120
    )
    return folder


@pytest.fixture(scope="module")
def ran(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What printed Python and then every import leave, run where only the wheel and third-party packages are seen."""
    pages = [ROOT / "README.md", ROOT / "docs/python.md"]
    blocks = [block for page in pages for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)]
    assert len(blocks) >= 3
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "program.py").write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    places = [str(installed), sysconfig.get_path("purelib")]
    environment |= {"PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    # -S: the site module would follow the environment's link to the checkout, an editable install
    done = subprocess.run(
        [sys.executable, "-S", "program.py"],
        input=json.dumps(["\n".join(blocks), IMPORT_ALL]),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def metadata(wheel: Path) -> Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_string(archive.read(name).decode())


def test_the_wheel_holds_the_library_and_its_templates_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {name.split("/")[0] for name in names} == {"medrobust", "-".join(wheel.name.split("-")[:2]) + ".dist-info"}
    kept = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "medrobust").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert any("templates/" in name for name in kept)
    assert {name for name in names if name.startswith("medrobust/")} == kept


def test_licence_and_citation_are_in_the_wheels_metadata(wheel: Path) -> None:
    described = metadata(wheel)
    assert described["License-Expression"] == "MIT"
    assert described.get_all("License-File") == ["LICENSE", "CITATION.cff"]
    with zipfile.ZipFile(wheel) as archive:
        for name in ("LICENSE", "CITATION.cff"):
            (place,) = (one for one in archive.namelist() if one.endswith(f".dist-info/licenses/{name}"))
            assert archive.read(place) == (ROOT / name).read_bytes()


def test_a_plain_installation_asks_for_the_libraries_dependencies_alone(wheel: Path) -> None:
    plain = [one for one in metadata(wheel).get_all("Requires-Dist") or [] if "extra ==" not in one]
    assert plain == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]


def test_the_readmes_python_runs_elsewhere_without_lightning(ran: dict, installed: Path) -> None:
    report = ran["reports"][0]
    assert report["error"] is None, report["error"]
    assert "pytorch_lightning" not in report["modules"]
    assert Path(ran["library"]).is_relative_to(installed)
    assert ROOT not in [Path(place).resolve() for place in report["path"]]


def test_every_module_of_the_library_imports_without_the_application(ran: dict) -> None:
    report = ran["reports"][1]
    assert report["error"] is None, report["error"]
    # wandb and cv2 are not among them: timm and faster_coco_eval import them where they are installed
    application = {"pytorch_lightning", "lightning", "albumentations", "jsonargparse"}
    assert not application & set(report["modules"])

"""The house: who imports whom, what every file has, what none may contain."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
# who may import whom; a name stands for a package or a module and all that lies in it
LIBRARY = {
    "medrobust.random_streams": set(),
    "medrobust.metrics": set(),
    "medrobust.networks": {"medrobust.random_streams", "medrobust.metrics.segmentation"},
    "medrobust.detectors": set(),
    "medrobust.results": set(),
    "medrobust.objectives": {"medrobust.networks", "medrobust.random_streams"},
    "medrobust.attacks": {"medrobust.networks", "medrobust.objectives", "medrobust.random_streams"},
    "medrobust.defences": {
        *("medrobust.attacks", "medrobust.networks", "medrobust.objectives", "medrobust.random_streams"),
    },
    "medrobust.evaluation": {
        *("medrobust.attacks", "medrobust.detectors", "medrobust.metrics", "medrobust.networks"),
        *("medrobust.objectives", "medrobust.random_streams", "medrobust.results.records"),
    },
    "medrobust.studies": {
        *("medrobust.attacks", "medrobust.evaluation", "medrobust.networks", "medrobust.objectives"),
        *("medrobust.metrics", "medrobust.random_streams", "medrobust.results.columns"),
    },
    "medrobust.listeners": {
        *("medrobust.detectors", "medrobust.evaluation", "medrobust.metrics", "medrobust.networks"),
        *("medrobust.results.studied", "medrobust.studies"),
        *("medrobust.results.columns", "medrobust.results.evaluations", "medrobust.results.formats"),
        *("medrobust.results.manifest", "medrobust.results.records", "medrobust.results.timings"),
        "medrobust.results.writer",
    },
    "medrobust.one_call": {
        *("medrobust.attacks", "medrobust.detectors", "medrobust.evaluation", "medrobust.listeners"),
        *("medrobust.networks", "medrobust.results"),
    },
}
ARROWS: dict[str, set[str]] = LIBRARY | {
    "datamodules": set(),
    "lightning_modules": {"medrobust.networks", "medrobust.metrics", "medrobust.random_streams"},
    "callbacks": {"medrobust"},
    "cli": {"medrobust", "datamodules", "lightning_modules", "callbacks"},
    "benchmarks": {"medrobust", "datamodules", "lightning_modules", "callbacks"},
    "compare": {"medrobust.results"},
    "train": {"cli"},
    "evaluate": {"cli"},
    "prepare": {"cli"},
}
OURS = {"medrobust"} | {name for name in ARROWS if "." not in name}
LIGHTNING = {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
NO_TORCH = {"torch", "torchvision", "torchmetrics", "timm"} | LIGHTNING
LONGEST = 60  # lines of a function
IGNORED = {".git", ".venv", "runs", "data", "wandb", "__pycache__", ".pytest_cache", ".ruff_cache", ".mypy_cache"}
TEXTS = {".py", ".md", ".yaml", ".yml", ".toml", ".txt", ".j2", ".json", ".cfg", ".sh", ".svg", ".csv", ""}
MACHINE_PATH = re.compile(r"(?<![\w.~}>)\]*-])/(?:home|root|Users|mnt|work|workspace|scratch|opt|srv)/\w")


def files_of(name: str) -> list[Path]:
    """The files of a package or a module."""
    place = ROOT / name.replace(".", "/")
    return sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]


MODULES = sorted(path for name in OURS for path in files_of(name))


def named(path: Path) -> str:
    """Path as it stands in the checkout."""
    return path.relative_to(ROOT).as_posix()


def imports(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """Every imported module or name with its dots, wherever in the file it is imported."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide who imports whom"
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from ((node, name.value) for name in node.args[:1] if isinstance(name, ast.Constant))


def below(name: str, allowed: set[str]) -> bool:
    """Whether a dotted name is one of the allowed modules or lies in one."""
    return any(name == module or name.startswith(f"{module}.") for module in allowed)


def wrong_arrows(package: str, source: str) -> list[str]:
    """Our own modules that a source of this package imports and may not."""
    return [
        name
        for _, name in imports(ast.parse(source))
        if name.split(".")[0] in OURS and not below(name, {package, *ARROWS[package]})
    ]


def text_files() -> Iterator[tuple[Path, str]]:
    """Every text file of the checkout that is not ignored."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        if IGNORED & set(parts) or any(part.endswith(".egg-info") for part in parts):
            continue
        if path.is_file() and path.suffix in TEXTS:
            yield path, path.read_text(encoding="utf-8")


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_imports_only_what_its_arrow_allows(package: str) -> None:
    files = files_of(package)
    assert files and all(path.is_file() for path in files)
    wrong = {named(path): found for path in files if (found := wrong_arrows(package, path.read_text()))}
    assert not wrong


def test_every_package_of_the_library_has_its_arrow() -> None:
    places = {path.stem for path in (ROOT / "medrobust").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert {f"medrobust.{place}" for place in places - {"__init__", "__pycache__"}} == set(LIBRARY)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("medrobust.metrics", "import medrobust.attacks.base as a"),
        ("medrobust.networks", "def f():\n    from medrobust.attacks import PGD"),
        ("medrobust.objectives", "from medrobust.attacks import PGD"),
        ("medrobust.evaluation", "from medrobust.results.report import finish"),
        ("medrobust.evaluation", "from medrobust.results import report"),
        ("medrobust.evaluation", "import medrobust.results"),
        ("medrobust.evaluation", "from callbacks import Robustness"),
        ("medrobust.results", "import importlib\nimportlib.import_module('medrobust.attacks')"),
        ("train", "from callbacks import Robustness"),
    ],
)
def test_the_arrows_are_seen_in_every_form_of_import(package: str, source: str) -> None:
    assert wrong_arrows(package, source)
    assert not wrong_arrows("medrobust.evaluation", "from medrobust.results.records import SCHEMA as S")


@pytest.mark.parametrize("path", files_of("medrobust"), ids=named)
def test_the_library_never_imports_lightning(path: Path) -> None:
    assert not [name for _, name in imports(ast.parse(path.read_text())) if name.split(".")[0] in LIGHTNING]


@pytest.mark.parametrize("path", files_of("medrobust.results"), ids=named)
def test_results_need_no_torch(path: Path) -> None:
    assert not [name for _, name in imports(ast.parse(path.read_text())) if name.split(".")[0] in NO_TORCH]


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_module_says_in_one_line_what_it_is(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring and docstring.splitlines()[0].endswith((".", "?"))


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_a_function_has_at_most_60_lines(path: Path) -> None:
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    lengths = {f"{node.name}, line {node.lineno}": (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {place: length for place, length in lengths.items() if length > LONGEST}


@pytest.mark.parametrize("path", MODULES, ids=named)
def test_no_module_prints(path: Path) -> None:
    if named(path).startswith("benchmarks/"):
        return  # programs of their own, which say how far they are
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


def test_there_is_no_drawer_for_everything() -> None:
    assert not [named(path) for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "core", "misc")]


def test_the_search_for_machine_paths_knows_one() -> None:
    assert MACHINE_PATH.search('root = "' + "/".join(("", "home", "somebody", "x")) + '"')
    assert not MACHINE_PATH.search("https://example.org/home/x and docs/root/x and ../shared/work/x")


def test_no_text_names_a_folder_of_the_machine_it_was_written_on() -> None:
    found = [
        f"{named(path)}:{number}: {line.strip()[:80]}"
        for path, text in text_files()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line) or (len(Path.home().parts) > 2 and str(Path.home()) in line)
    ]
    assert not found


def project() -> dict:
    """The [project] table."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(*extras: str) -> list[str]:
    """The plain dependencies and those of some extras, other extras that they name resolved."""
    wanted = list(project()["dependencies"])
    for extra in extras:
        for requirement in project()["optional-dependencies"][extra]:
            included = re.fullmatch(rf"{project()['name']}\[([\w,]+)\]", requirement)
            wanted += requirements(*included[1].split(",")) if included else [requirement]
    return list(dict.fromkeys(wanted))


EVERYTHING = requirements(*project()["optional-dependencies"])


def canonical(name: str) -> str:
    """Name as package indexes compare them."""
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> list[str]:
    """Lines of constraints.txt that are no comments."""
    file = ROOT / "constraints.txt"
    if not file.is_file():
        pytest.skip("constraints.txt is not written yet")
    lines = [line.split("#")[0].strip() for line in file.read_text().splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("requirement", EVERYTHING)
def test_a_dependency_has_a_lower_bound(requirement: str) -> None:
    assert re.match(r"[\w.-]+(\[[\w,]+\])?>=\d", requirement), requirement


@pytest.mark.parametrize("requirement", EVERYTHING)
def test_a_dependency_is_pinned_within_its_bounds(requirement: str) -> None:
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    pins = {canonical(line.split("==")[0]): line.split("==")[1] for line in constraints()}
    assert wanted.specifier.contains(pins[canonical(wanted.name)])


def test_constraints_are_plain_pins_without_hashes_or_addresses() -> None:
    assert not [line for line in constraints() if not re.fullmatch(r"[A-Za-z0-9._-]+==[\w.!]+", line)]


DISTRIBUTIONS = {
    "cv2": "opencv-python-headless",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
    "markupsafe": "jinja2",  # its documented interface
    "lightning_utilities": "pytorch-lightning",  # released together
}


def undeclared(files: list[Path], *extras: str) -> set[str]:
    """Third-party imports of these files that neither the plain dependencies nor these extras name."""
    declared = {canonical(re.split(r"[\[<>=!~ ]", one)[0]) for one in requirements(*extras)}
    return {
        f"{named(path)}: {name.split('.')[0]}"
        for path in files
        for _, name in imports(ast.parse(path.read_text()))
        if (top := name.split(".")[0]) not in sys.stdlib_module_names | OURS
        and canonical(DISTRIBUTIONS.get(top, top)) not in declared
    }


def test_what_is_imported_is_declared() -> None:
    """A package that comes along with another one today may be gone tomorrow."""
    library, benchmarks = set(files_of("medrobust")), set(files_of("benchmarks"))
    optional = {ROOT / "medrobust" / "results" / "workspace_upload.py"}  # which says so where the package is missing
    assert not undeclared(sorted(library - optional))
    assert not undeclared(sorted(optional), "wandb-workspaces")
    assert not undeclared(sorted(set(MODULES) - library - benchmarks), "app")
    assert not undeclared(sorted(benchmarks), "dev", "bench")


def test_an_extra_is_not_for_what_the_library_needs() -> None:
    """Nor does the library ask for what only the application imports."""
    assert undeclared(files_of("callbacks")) and undeclared(files_of("datamodules"), "bench")
    imported = {
        canonical(DISTRIBUTIONS.get(top, top))
        for path in files_of("medrobust")
        for _, name in imports(ast.parse(path.read_text()))
        for top in [name.split(".")[0]]
    }
    plain = {canonical(re.split(r"[\[<>=!~ ]", one)[0]) for one in requirements()}
    assert plain <= imported


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project()["version"] and citation["license"] == project()["license"]
    first_authors = [reference["authors"][0]["family-names"] for reference in citation["references"]]
    assert first_authors == ["Ma", "Tian", "Qi", "Yao"]


def test_the_wheel_holds_the_library_alone() -> None:
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    assert tables["setuptools"]["packages"]["find"]["include"] == ["medrobust*"]
    assert tables["pytest"]["ini_options"]["pythonpath"] == ["."]
    assert not (ROOT / "tests" / "__init__.py").exists()


SEAMS = ("medrobust.evaluation", "medrobust.listeners", "callbacks")  # where listeners meet victims and data
TYPED = {"victim", "data", "context", "plan", "batch"}
ANYTHING = ("Any", "typing.Any", "object")


def guesses(tree: ast.AST) -> list[int]:
    """Lines that ask by name what an object has."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr")
    ]


def untyped(tree: ast.AST) -> list[str]:
    """Parameters that stand for a victim, data, a context, a plan or a batch and may be anything."""
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [
        f"{function.name}({parameter.arg}), line {parameter.lineno}"
        for function in functions
        for parameter in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)
        if parameter.arg in TYPED and (parameter.annotation is None or ast.unparse(parameter.annotation) in ANYTHING)
    ]


@pytest.mark.parametrize("path", [*files_of("medrobust.attacks"), *files_of("medrobust.objectives")], ids=named)
def test_attacks_and_objectives_meet_victims_by_their_type(path: Path) -> None:
    assert not untyped(ast.parse(path.read_text()))


@pytest.mark.parametrize("path", [path for name in SEAMS for path in files_of(name)], ids=named)
def test_listeners_meet_victims_and_data_by_their_types(path: Path) -> None:
    tree = ast.parse(path.read_text())
    assert not guesses(tree)
    assert not untyped(tree)


def test_guesses_and_untyped_parameters_are_seen() -> None:
    assert guesses(ast.parse("def f(victim: Victim) -> None:\n    return getattr(victim, 'network', None)")) == [2]
    assert guesses(ast.parse("found = hasattr(data, 'splits')")) == [1]
    assert untyped(ast.parse("class A:\n    def f(self, victim: Any, plan: Plan) -> None: ...")) == [
        "f(victim), line 2"
    ]
    assert untyped(ast.parse("async def f(*, batch, data: object) -> None: ...")) == [
        "f(batch), line 1",
        "f(data), line 1",
    ]
    assert not untyped(ast.parse("def f(victim: EvaluatedVictim, batch: Batch, value: Any) -> None: ..."))

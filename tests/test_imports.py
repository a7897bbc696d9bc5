"""Importing is cheap, and imports run one way."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "xnowcast"

LAYERS = [
    {"_version", "_names", "check", "configuration", "drafts", "interruption", "terminal"},
    {"nn"},
    {"diffusion"},
    {"fields"},
    {"models"},
    {"engine", "io"},
    {"data"},
    {"verbs"},
    {"verify"},
    {"plot"},
    {"archive"},
    {"training"},
    {"comparison"},
    {"accessor"},
    {"cli", "__main__"},
]
"""From the bottom up: a room may import its own layer and those before it."""

ARRAY_CODE = ("nn", "diffusion", "models", "verify/kernels")
"""Parts that work on arrays and know neither xarray nor dask."""


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        relative = path.relative_to(PACKAGE).with_suffix("").as_posix()
        if relative != "__init__":
            yield relative, path


def imported(path, top_level_only=False):
    """Absolute names that a file imports, those for type checking alone left out."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in tree.body if top_level_only else ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively: write the package's name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_imported():
    """Each file of the package, by its module's name, with the files that it imports, wherever in it."""
    paths = {f"xnowcast.{name}".replace("/", ".").removesuffix(".__init__"): path for name, path in modules()}
    imports = {}
    for module, path in paths.items():
        names = set(imported(path))
        # "from package import file" imports the file; that Python runs the package's own __init__ first is no circle
        of_files = {name.rpartition(".")[0] for name in names if name in paths}
        imports[module] = {name for name in names - of_files if name in paths and name != module}
    return imports


def _name(value):
    return value if isinstance(value, str) else ""


def part(name):
    return name.split(".")[1] if name.count(".") else None


def layer(of):
    return next((i for i, parts in enumerate(LAYERS) if of in parts), None)


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=_name)
def test_imports_run_one_way(name, path):
    own = layer(name.split("/")[0])
    assert own is not None, f"{name} has no place among the layers: give it one"
    for target in imported(path):
        if target.startswith("xnowcast.") and part(target) in {p for parts in LAYERS for p in parts}:
            assert layer(part(target)) <= own, f"{name} imports {target}, which lies above it"


def test_no_files_import_one_another_in_a_circle():
    imports = files_imported()
    reached = {name: set(targets) for name, targets in imports.items()}
    for middle in imports:  # Warshall's closure
        for name in imports:
            if middle in reached[name]:
                reached[name] |= reached[middle]
    in_circles = sorted(name for name in imports if name in reached[name])
    assert not in_circles, f"these files import one another, directly or by way of others: {in_circles}"


@pytest.mark.parametrize(
    ("name", "path"), [m for m in modules() if m[0].partition("/")[0] not in ("cli", "__main__")], ids=_name
)
def test_only_the_command_line_imports_the_face_of_the_package(name, path):
    tree = ast.parse(path.read_text())
    whole = [alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names]
    parts = [
        alias.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module == "xnowcast"
        for alias in n.names
    ]
    files = {part.partition("/")[0] for part, _ in modules()}
    assert "xnowcast" not in whole and set(parts) <= files, f"{name} imports from xnowcast/__init__.py: name the file"


@pytest.mark.parametrize(("name", "path"), [m for m in modules() if m[0].startswith(ARRAY_CODE)], ids=_name)
def test_array_code_knows_neither_xarray_nor_dask(name, path):
    packages = {target.split(".")[0] for target in imported(path)}
    assert not packages & {"xarray", "dask", "distributed", "pandas"}


IMPORTING = """
import json, sys, xarray, cf_xarray, pandas
brought, opened = set(sys.modules), []
sys.addaudithook(lambda event, arguments: event == "open" and opened.append(str(arguments[0])))
import xnowcast
found = {"own": sorted(set(sys.modules) - brought), "all": sorted(sys.modules), "opened": list(opened)}
xnowcast.models, xnowcast.datasets, xnowcast.verify, xnowcast.io, xnowcast.plot
found["callable"] = [callable(xnowcast.forecast), callable(xnowcast.load), hasattr(xarray.Dataset, "nowcast")]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def fresh():
    """What happens in a new process that imports the package after xarray."""
    run = subprocess.run([sys.executable, "-c", IMPORTING], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def test_importing_the_package_imports_nothing_heavy(fresh):
    heavy = ["torch", "dask.array", "distributed", "matplotlib", "pint", "pysteps", "h5py", "scipy.signal", "lightning"]
    assert not set(heavy) & set(fresh["all"])


def test_importing_the_package_costs_little_more_than_importing_xarray(fresh):
    """`benchmarks/scale.py startup` measures the time; what takes it is further modules and files."""
    others = {name.partition(".")[0] for name in fresh["own"]} - {"xnowcast", *sys.stdlib_module_names}
    assert not others and len(fresh["own"]) < 64
    assert {Path(file).suffix for file in fresh["opened"]} <= {".py", ".pyc"}, "modules alone are read"


def test_the_functions_and_the_modules_have_their_names(fresh):
    assert fresh["callable"] == [True, True, True]

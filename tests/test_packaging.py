"""The three lists of dependencies are one list."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA_NAMES = {
    "torch": "pytorch",
    "cf-xarray": "cf_xarray",
    "netCDF4": "netcdf4",
    "matplotlib": "matplotlib-base",
    "eccodes": "python-eccodes",
}
EXTRAS_OF_THE_ENVIRONMENT = ("fast", "train", "plot", "io", "docs", "test")


def test_environment_yml_has_the_dependencies_of_pyproject():
    wanted = set()
    groups = [PROJECT["dependencies"], *(PROJECT["optional-dependencies"][e] for e in EXTRAS_OF_THE_ENVIRONMENT)]
    for requirement in (Requirement(text) for group in groups for text in group):
        wanted.add(f"{CONDA_NAMES.get(requirement.name, requirement.name)}{requirement.specifier}")
    lines = re.findall(r"^  - (\S+)$", (ROOT / "environment.yml").read_text(), flags=re.MULTILINE)
    found = set(lines) - {"conda-forge", "pip", f"python{PROJECT['requires-python']}"}
    assert found == wanted


def test_the_extras_that_the_documentation_names_exist():
    assert set(PROJECT["optional-dependencies"]) >= {"train", "plot", "io", "pysteps", "perceptual", "docs", "test"}


def test_constraints_satisfy_pyproject_and_pin_torch():
    pins = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            pins[requirement.name.lower()] = next(iter(requirement.specifier)).version
    assert pins["torch"] == "2.13.0"
    for group in [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]:
        for requirement in map(Requirement, group):
            pin = pins.get(requirement.name.lower())
            assert pin is None or pin in requirement.specifier, f"{requirement} against the pin {pin}"


def test_the_version_is_one():
    import xnowcast

    assert xnowcast.__version__ == PROJECT["version"]

"""The README, the documentation and the tutorials do what they say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python[ ]*(?P<info>[^\n]*)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (?P<name>\w+\.py)\n")


LESS = (
    (r"(\bsteps=)(\d{3,})", 20),  # of a training
    (r'(\bwarmup(?:=|": ))(\d+)', 20),
    (r"(\bvalidation_crops=)(\d+)", 4),
    (r"(\bsampling_steps=)(\d+)", 5),
    (r"(\bshape=\()(\d{3})", 2),
    (r"(\bshape=\(\d+, )(\d{3})", 2),
)
"""What takes time for nothing but better pictures, and how many times less of it a test does than a reader."""


def shortened(source):
    for pattern, part in LESS:
        source = re.sub(pattern, lambda found, part=part: f"{found[1]}{max(2, int(found[2]) // part)}", source)
    return source


@pytest.mark.parametrize("page", [p for p in PAGES if BLOCK.search(p.read_text())], ids=lambda p: p.name)
def test_the_code_on_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page in one namespace, on smaller grids; one that begins with a file's name is that file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(_registry()))
    namespace = {}
    for number, block in enumerate(BLOCK.finditer(page.read_text()), start=1):
        if block["info"] == "notest":  # needs a file or a network that a test has not
            continue
        named = FILE.match(block["code"])
        if named:
            (tmp_path / named["name"]).write_text(block["code"])
        else:
            exec(compile(shortened(block["code"]), f"{page.name}, block {number}", "exec"), namespace)


def _registry():
    from xnowcast import models

    return models.REGISTRY


@pytest.fixture(scope="module")
def kernel():
    """One process for all tutorials, so that what they import is imported once."""
    manager = pytest.importorskip("jupyter_client", reason="needs the extra test").KernelManager()
    yield manager
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


@pytest.mark.parametrize("notebook", sorted((ROOT / "tutorials").glob("*.ipynb")), ids=lambda p: p.name)
def test_a_tutorial_runs_from_top_to_bottom(notebook, kernel, tmp_path, monkeypatch):
    """With less of what a reader waits for."""
    monkeypatch.setenv("XNOWCAST_OFFLINE", "1")
    nbformat = pytest.importorskip("nbformat", reason="needs the extra test")
    nbclient = pytest.importorskip("nbclient", reason="needs the extra test")
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if cell.cell_type == "code":
            cell.source = shortened(cell.source)
    content.cells.insert(0, nbformat.v4.new_code_cell(f"%reset -f\nimport os\nos.chdir({str(tmp_path)!r})"))
    nbclient.NotebookClient(content, km=kernel, timeout=None).execute()


def test_the_documentation_builds_without_a_warning(tmp_path):
    pytest.importorskip("myst_nb", reason="needs the extra docs")
    plain = ["-D", "html_theme=basic"]  # the theme's list of all pages on every page would double the cost
    words = ["sphinx", "-W", "--keep-going", "-q", *plain, "-b", "html", str(ROOT / "docs"), str(tmp_path / "html")]
    run = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    page = (tmp_path / "html" / "reference" / "api" / "generated" / "xnowcast.forecast.html").read_text()
    assert "Continue a precipitation sequence" in page and "Parameters" in page


def test_ruff_and_mypy_have_nothing_to_say():
    pytest.importorskip("mypy", reason="needs the extra test")
    for command in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["mypy"]):
        run = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr

"""Every fault that docs/howto/archives.md tells of is tried by a test."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rows_of_faults():
    """Cells of the rows of the tables that say what holds them."""
    inside = False
    for line in (ROOT / "docs" / "howto" / "archives.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif cells[-1] == "held by":
            inside = True
        elif inside and not set(line) <= set("|-"):
            yield cells


def test_every_fault_names_tests_that_exist():
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    rows = list(rows_of_faults())
    assert len(rows) > 30
    for fault, *_, held in rows:
        named = re.findall(r"`(test_\w+)`", held)
        assert named and set(named) <= tests, f"{fault}: {set(named) - tests or 'no test'}"

"""The table of all systems: each has a place and a paper or none on purpose, and the page has it as it is."""

import re
from pathlib import Path

import pytest
import torch

from xnowcast import models
from xnowcast.models import catalogue, families

PAGE = Path(__file__).resolve().parents[2] / "docs" / "understand" / "models.md"
TABLE = re.compile(r"(?<=<!-- all systems -->\n\n).*?(?=\n\n<!-- end of all systems -->)", re.DOTALL)


def test_every_system_is_in_one_row():
    together = [name for names in catalogue.groups() for name in names]
    assert sorted(together) == models.names()
    assert all(len({models.declare(name).verb for name in names}) == 1 for names in catalogue.groups())


@pytest.mark.parametrize("names", catalogue.groups(), ids=lambda names: names[0])
def test_every_family_says_where_it_is_described(names):
    found = catalogue.paper(names)
    assert found is not None, f"give {names[0]} a section of references in its docstring, or a line in PAPERS"
    assert found or not models.declare(names[0]).trained, "what is trained is described somewhere"


def test_a_docstring_tells_its_paper_and_the_record_goes_before_it():
    assert catalogue.paper(["stldm"]).startswith("Foo, Wong, Gao") and "Lipman" not in catalogue.paper(["stldm"])
    assert catalogue.paper(["persistence"]) == ""
    assert set(catalogue.PAPERS) <= set(models.names())


def test_parameters_are_those_of_the_network():
    whole = models.build("crps-rnn")
    assert catalogue.parameters("crps-rnn") == sum(one.numel() for one in whole.parameters()) > 0
    assert catalogue.parameters("persistence") == 0 and torch.get_default_device().type == "cpu"


def test_known_weights_are_those_that_ship_and_those_of_the_families():
    table = catalogue.table()
    assert all(f"[`{name}`]" in table for name in families.FAMILIES)
    of_ms = next(line for line in table.splitlines() if line.startswith("| `ms-convlstm`"))
    assert "none published" in of_ms and "`stvd-4` ships" in table


def test_the_page_has_the_table_of_the_registry():
    """After a change that is meant: ``PYTHONPATH=tests:. python tests/models/test_catalogue.py``."""
    assert TABLE.search(PAGE.read_text())[0] == catalogue.table()


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: catalogue.table(), PAGE.read_text()))

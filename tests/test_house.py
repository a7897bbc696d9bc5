"""What a rebuilding of the house must not change: public names, their signatures, and numbers."""

import inspect
import json
from pathlib import Path

import numbers_now
import numpy as np
import pytest

import xnowcast

ROOMS = ("archive", "datasets", "io", "models", "plot", "pretrained", "verify")
SIGNATURES = Path(__file__).with_name("signatures.txt")


def _own(module):
    """The public names of a room that lists none."""
    own = {name: getattr(thing, "__module__", None) for name, thing in vars(module).items()}
    return [name for name, home in own.items() if name[0] != "_" and home == module.__name__]


def _takes(function):
    """Names, order and defaults of the arguments; annotations are written otherwise by other versions of Python."""
    taken = inspect.signature(function).parameters.values()
    return str(inspect.Signature([one.replace(annotation=inspect.Parameter.empty) for one in taken]))


def public():
    """Every public name with its signature, or what it is."""
    for room, whole in {"": xnowcast, **{room: getattr(xnowcast, room) for room in ROOMS}}.items():
        for name in sorted(getattr(whole, "__all__", None) or _own(whole)):
            thing = getattr(whole, name)
            taken = _takes(thing) if inspect.isfunction(thing) else f" is a {type(thing).__name__}"
            yield f"{'.'.join(filter(None, ('xnowcast', room, name)))}{taken}"


def test_public_signatures_are_those_that_are_written_down():
    """After a change that is meant: ``python tests/test_house.py``."""
    written = SIGNATURES.read_text().splitlines()
    changed = set(public()) ^ set(written)
    assert not changed, f"if that is meant: python tests/test_house.py; {sorted(changed)}"


TABLE = json.loads(numbers_now.TABLE.read_text())


@pytest.mark.filterwarnings("ignore")  # small grids are outside of what weights were trained on
@pytest.mark.parametrize(("name", "make"), list(numbers_now.results()), ids=lambda part: part if part in TABLE else "")
def test_numbers_are_those_that_are_written_down(name, make):
    """After a change that is meant: ``python tests/numbers_now.py --write``."""
    assert name in TABLE, f"{name} is new: python tests/numbers_now.py --write"
    now = {key: numbers_now.summary(values) for key, values in numbers_now.fields(make()).items()}
    assert now.keys() == TABLE[name].keys()
    for key, numbers in now.items():  # other processors round otherwise, and networks carry it on
        np.testing.assert_allclose(numbers, TABLE[name][key], rtol=0.02, atol=1e-3, err_msg=key)


if __name__ == "__main__":
    SIGNATURES.write_text("\n".join(public()) + "\n")

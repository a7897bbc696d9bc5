"""The options of a model are declared once: constructor, ``declare``, registry, docstring and card read them there."""

import re
from dataclasses import dataclass
from inspect import getdoc, signature
from pathlib import Path

import pytest
from torch import nn
from toy_models import NoisyPersistence

from xnowcast import models
from xnowcast.models import weights
from xnowcast.models.base import Task
from xnowcast.models.declaration import Declared, Options, documented, option, table

CLASSES = sorted({models.find(name) for name in models.names()}, key=lambda one: one.__name__)
PAGES = sorted((Path(__file__).resolve().parents[2] / "docs").rglob("*.md"))
TABLE = re.compile(r"(?<=<!-- options of )([\w+-]+) -->\n(.*?)(?=<!-- end of options -->)", re.DOTALL)
OURS = [one for one in CLASSES if hasattr(one, "Options")]


@dataclass(frozen=True, kw_only=True)
class FadingOptions(Options):
    rate: float = option(0.1, "Share of the rain that is lost in a step.", least=0, runtime=True)
    shape: str = option("round", "Of the rain.", choices=("round", "long"))
    turns: int | None = option(None, "Degrees a step.", only={"shape": ["long"]})

    def check(self):
        if self.rate >= 1:
            raise ValueError(f"rate is {self.rate}: it must be below 1")

    def task(self):
        return Task("forecast", input_frames=1, stochastic=self.shape == "long")


class Fading(Declared[FadingOptions], nn.Module):
    """Rain that fades.

    Raises
    ------
    ValueError
        If an option has no such value.
    """

    def __init__(self, **options):
        super().__init__(**options)
        self.layer = nn.Linear(1, 1)


@pytest.mark.parametrize("model", OURS, ids=lambda one: one.__name__)
def test_constructor_declare_and_docstring_name_the_declared_options(model):
    declared = model.Options.declared()
    for function in (model, model.declare):
        taken = signature(function).parameters
        assert {name: one.default for name, one in taken.items()} == {n: one.default for n, one in declared.items()}
        assert all(one.kind is one.KEYWORD_ONLY for one in taken.values())
    text = getdoc(model)
    assert ("Parameters\n" in text) == bool(declared)
    for name, one in declared.items():
        assert text.count(f"\n{name} : {one.values}\n    ") == 1 and one.meaning
        assert one.checked(one.default) == one.default
    assert set(model.RUNTIME_OPTIONS) == {name for name, one in declared.items() if one.runtime}


@pytest.mark.parametrize("name", models.names())
def test_the_registry_gives_the_declared_options_that_the_name_leaves(name):
    model = models.find(name)
    if not hasattr(model, "Options"):
        return
    fixed = models.registry.fixed_options(name)
    declared = {n: one for n, one in model.Options.declared().items() if n not in fixed and one.belongs_to(fixed)}
    options = models.options(name)
    assert {option: options.pop(option) for option in declared} == {o: one.default for o, one in declared.items()}
    assert bool(options) == hasattr(model, "INSIDE"), "those of the system inside a layer"
    assert models.declare(name) == model.Options(**fixed).task()
    card = weights.card(name)
    assert card.system != name or card.options.keys() <= declared.keys() | options.keys()


def written(found):
    """A table of a page as the declarations have it."""
    declared, names = models.find(found[1]).Options.declared(), models.options(found[1])
    return f"{found[1]} -->\n\n{table(declared[name] for name in names if name in declared)}\n\n"


def test_tables_of_the_documentation_are_the_declarations():
    """After a change: ``PYTHONPATH=tests python tests/models/test_options.py``."""
    found = [one for page in PAGES for one in TABLE.finditer(page.read_text())]
    assert found and all(one[0] == written(one) for one in found)


def test_a_model_of_ones_own_declares_its_options_as_well():
    model = Fading(rate=0.2, shape="long", turns=3)
    assert model.options == FadingOptions(rate=0.2, shape="long", turns=3) and model.task.stochastic
    assert Fading.declare(rate=0.2).input_frames == 1 and Fading.RUNTIME_OPTIONS == ("rate",)
    assert getdoc(Fading) == (
        "Rain that fades.\n\n"
        "Parameters\n----------\n"
        "rate : float\n    Share of the rain that is lost in a step.\n"
        'shape : {"round", "long"}\n    Of the rain.\n'
        "turns : int, optional\n    Degrees a step.\n\n"
        "Raises\n------\nValueError\n    If an option has no such value."
    )
    assert documented("Rain.", []) == "Rain."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": -0.1}, r"rate is -0.1: it must be at least 0"),
        ({"rate": float("nan")}, r"rate is nan; it must be a finite number"),
        ({"rate": 1.5}, r"rate is 1.5: it must be below 1"),
        ({"shape": "square"}, r"shape is 'square': choose one of 'round', 'long'"),
        ({"shape": 3}, r"shape is 3; it must be a word"),
        ({"turns": 3}, r"turns is an option for shape 'long' alone: leave it out"),
    ],
)
def test_options_that_will_not_do_are_refused_by_constructor_and_declare(options, message):
    for make in (Fading, Fading.declare):
        with pytest.raises(ValueError, match=message):
            make(**options)


def test_a_class_with_a_plain_declare_works_as_well(monkeypatch):
    monkeypatch.setattr("xnowcast.models.registry.REGISTRY", dict(models.REGISTRY))
    models.register("noisy", "toy_models:NoisyPersistence")
    assert models.options("noisy") == {"amplitude": 0.5}
    assert models.declare("noisy", amplitude=0.2) == NoisyPersistence.declare()


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(TABLE.sub(written, page.read_text()))


def test_an_option_of_running_is_an_attribute_that_counts_and_is_checked():
    fading = Fading(rate=0.2)
    assert fading.rate == 0.2
    fading.rate = 0.5
    assert fading.options.rate == fading.rate == 0.5
    with pytest.raises(ValueError, match="rate is -1: it must be at least 0"):
        fading.rate = -1
    with pytest.raises(AttributeError, match="shapes"):
        _ = fading.shapes


def test_sampling_takes_the_steps_that_a_model_was_given_last():
    sharpener = models.build("postcast", size="tiny", diffusion_steps=20)
    sharpener.sampling_steps = 4
    assert len(sharpener.steps) == 5  # the noise that each of the four begins with, and the end
    nowcast = models.build("stldm", size="tiny")
    nowcast.sampling_steps = 3
    assert nowcast.options.sampling_steps == 3

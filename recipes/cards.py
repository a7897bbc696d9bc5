"""Write the page of model cards, and the tables of scores in README and docs, from what `evaluate.py` measured.

    make cards                         # after make evaluate, and card_pictures.py for weights that are new
    python recipes/cards.py            # from the scores that lie in recipes/results

Good and bad cases are what `card_pictures.py` left in docs/cards. On other pages tables stand between the marks
``<!-- scores: NAME -->`` and ``<!-- end of scores -->``; `evaluation/tables.py` makes them.
"""

import argparse
import json
import shutil
from pathlib import Path

import pandas as pd
from evaluation import tables
from evaluation.methods import ENSEMBLES, SINGLE, SLOW
from evaluation.tables import LARGE, SMALL

import xnowcast
from xnowcast.models import shipped

HERE = Path(__file__).resolve().parent
SCORES = HERE / "results" / "forecasts.csv"
PAGE = HERE.parent / "docs" / "reference" / "model_cards.md"
PICTURES = HERE.parent / "docs" / "cards"

INTRODUCTION = """# Model cards

Weights that come with the package, one section each: what they read, what they were trained on, how well they do on
events that they never saw, and what they cannot do. `python recipes/cards.py` writes this page from the cards in
the files and from the scores that `make evaluate` measures; `python recipes/pretrain.py NAME` trains the weights
again. How to use them: [](../understand/models.md#weights-that-ship).

Each section has a good and a bad case, out of a handful that the weights did not learn from: those with the highest and
the lowest value of the score that is named. `python recipes/card_pictures.py [NAME ...]` makes, judges and draws
them, and the captions are written from what it measured. Synthetic weather shows what a method can and cannot do, not
how good it is: for that see the [scores on real events](#how-forecasts-are-judged). Pictures of those are not
published here, for their owners' terms; where the events lie on disk, `python recipes/evaluate.py` draws a page of
each. Rain is in mm/h; grey is where a forecast knows nothing, since the air comes from outside.
"""

JUDGED = """## How forecasts are judged

`make evaluate` forecasts an hour from some starts of each event, on its middle 512 x 512 cells (Switzerland 2015 has
384 x 512, Italy 480 x 400). STLDM is slow, so that ensembles are made once more on the middle 256 x 256 cells, with it
beside them. The figures here are of {starts}. All methods of a round read the
same five frames and are scored on the same cells: those that were measured and of which every method, with every
member, says something. Sums are taken over the starts of an event, ratios last; means over events are means of these.
Methods are those of this package, and of pysteps 1.21.5 with its defaults where the name says so; ensembles have ten
members. "lagrangian members" is `forecast("lagrangian", members=10)`, `steps` is `forecast(members=10)`.

{events}

- **Held out** are events of countries that no weights learnt from. Running options are another matter: the settings
  of `extrapolation` were once chosen on five events, these three among them; the share of S-PROG in `lagrangian`
  (`cascade`) on nine starts of these; the four options of the layer in `stldm` on nine starts of these. Those of
  `steps` were chosen on training and choosing events and on Canada, after a first look at the events held out had
  shown showers to be its weak side; those of "lagrangian members" on France, Italy and Canada. So expect a little
  less elsewhere, most of all of `stldm`.
- **Italy, north-east** taught nothing, but other regions of that day are among the events of the recipe `members`; in
  tables it has an asterisk and stands apart from the means. The weights that ship learnt from Finland, the Netherlands
  and the USA alone.
- Three events and few starts are little. Between two methods on one event, differences of 2 % say little.

{words}

`recipes/results/forecasts.csv` has all of them, with more thresholds, squares and bands.
"""

WORDS = {
    "CSI 5": "hits over hits, misses and false alarms of 5 mm/h, cell by cell; *in 16 km*: of the largest rain in "
    "squares of 16 km. Of an ensemble that of a member; *of mean*: of the mean of the members",
    "FSS 5": "fractions skill score of 5 mm/h within 17 km",
    "MAE, CRPS, fair CRPS": "mean absolute error and continuous ranked probability score, mm/h; *fair*: of as many "
    "members as one likes, not of ten; *in 16 km*: of means over squares",
    "rain, area 5": "total rain, and area of 5 mm/h or more, over those that came. *Rain over extrapolation* has the "
    "loss of what leaves the grid in both, and so tells what the method itself loses or adds",
    "spread over error": "of the members and of their mean; 1 if they differ as they err",
    "outer ranks": "how often less or more came than any member said, where it rained or was to rain, over how often "
    "it should: above 1 if members are too alike",
    "unreliability 1, Brier skill 1": "of the probability of 1 mm/h: the reliability part of the Brier score over the "
    "uncertainty, best at 0, and the skill over the frequency in the event, best at 1",
    "power 4-8": "at wavelengths of 4 to 8 km, over the observed; a few extreme cells can bring it far from 1",
    "CPU seconds": "for a forecast of an hour, one thread, motion included, median over starts; up to twice as "
    "many on a busy machine as on an idle one",
}
"""What columns of tables are."""

MORE_ROUNDS = """The same ensembles on 256 x 256 cells, with STLDM:
"""

MORE = {
    "lagrangian": "[In the moving frame](../systems/recurrent.md#in-the-moving-frame) has the method.",
    "stldm": "[](../systems/stldm.md) has the method, and what its members are worth.",
    "postcast": "[](../systems/postcast.md#what-it-does-to-real-fields) has scores by event, pictures and limits.",
    "stvd": "[](../systems/stvd.md#what-it-learns) has scores by event and limits.",
    "nwp-mae": "[](../systems/nwp_mae.md#what-it-learns) has scores against the forecast's own rain and variants.",
    "nwp-metnet": "[](../systems/nwp_mae.md#what-it-learns) has scores against the forecast's own rain and NWP-MAE.",
}
"""Where the rest is told, by system."""

EVENTS = "events that it did not learn from: Switzerland 2015 and 2016, Belgium 2021"
SYNTHETIC = "over all lead times of 40 synthetic runs that it did not learn from"
SCORED_ON = {
    "lagrangian": f"mean over three {EVENTS}, beside S-PROG of pysteps; [by event](#forecasts-by-event)",
    "stldm": f"mean over three {EVENTS}, 256 x 256 cells, beside STEPS of pysteps; [by event](#ensembles-by-event)",
    "postcast": "two frames of each of two events that it did not learn from, blurred with a Gaussian of 2 km"
    "; the validation loss is that of the training",
    "stvd": "mean over 16 frames of two events that it did not learn from: Switzerland 2016, Belgium 2021"
    "; the validation loss is that of the training",
    "nwp-mae": SYNTHETIC,
    "nwp-metnet": SYNTHETIC,
}
"""What the scores on a card were measured on, by system."""

TRAINED = {
    "lagrangian": "4,000 and 3,500 steps of the forecasting network and 700 of the deblurring one, two crops of 96 x "
    "96 cells each; about two hours on one shared core",
    "stldm": "1,600 steps of the autoencoder, two crops of 64 x 64 cells each, 500 of the translator and 420 of the "
    "denoiser, of 96 x 96; 16 minutes on one core",
    "postcast": "850 steps of eight crops of 64 x 64 cells; 9 minutes on one core",
    "stvd-4": "600 steps of four crops of 64 x 64 cells; 5 minutes on one core",
    "stvd-8": "450 steps of three crops of 80 x 80 cells; 5 minutes on one core",
    "nwp-mae": "3,000 steps of masked pre-training and 700 of the classes, eight crops of 64 x 64 cells each; "
    "6 minutes on one core",
    "nwp-metnet": "2,000 steps of eight crops of 64 x 64 cells; 7 minutes on one core",
}
"""Steps and cost of the training, by file: see `pretrain.py`."""

RADAR_SPLIT = (
    "a fifth of the time of these events validates; Switzerland 2015 and 2016 and Belgium 2021 are for testing"
)
LIMITS = {
    "lagrangian": "draws no detail, so that in squares of 16 km it has fewer hits than extrapolation; behind S-PROG "
    "where frames are 15 minutes apart; knows nothing of air that comes from outside",
    "stldm": "members too alike, with a spread of 0.7 to 0.8 of the error of their mean, that lose rain, after an hour "
    "nearly half of it; options of the layer were chosen on the events of its scores; slow, 42 s of CPU time for ten "
    "members, an hour and 256 x 256 cells",
    "postcast": "makes grain of what is smooth by nature, and power that is wrong either way of forecasts whose "
    "rain rates were matched; some fields need 250 steps instead of 50",
    "stvd": "single frames, so that detail does not move from one to the next; grain where the composite is smooth",
    "nwp-mae": "of no use on a real forecast before it has learnt from pairs of it",
    "nwp-metnet": "of no use on a real forecast before it has learnt from pairs of it",
}
"""What one should know before taking them, by system."""


ON_A_CARD = {
    "lagrangian": (LARGE, ("pysteps sprog", "lagrangian"), tables.ONE),
    "stldm": (SMALL, ("pysteps steps", "stldm"), tables.MANY),
}
"""Grid, methods and scores that are told of forecasts."""


def scores_of(name, card, scores):
    """The scores of some weights: those that were measured here, or else those on the card."""
    kind = kind_of(name, card)
    if kind in ON_A_CARD:
        cells, methods, columns = ON_A_CARD[kind]
        rows = tables.chosen(scores, methods, cells)
        return f"Scores, {SCORED_ON[kind]}:\n\n{tables.markdown(rows, tables.MEAN, columns, ['minutes'])}\n"
    rows = "\n".join(f"| {score} | {value:.3g} |" for score, value in card.scores.items())
    measured = SCORED_ON.get(kind_of(name, card), "as the training measured them")
    return f"Scores, {measured}:\n\n| score | value |\n|---|---|\n{rows}\n"


def good_and_bad(name, card):
    """Pictures of a good and a bad case with their captions, and the scores of all cases."""
    file = PICTURES / f"{name}.json"
    trial = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
    if trial is None or trial["sha256"] != card.sha256:
        print(f"no pictures of these weights: python recipes/card_pictures.py {name}")
        return ""
    cases, score = trial["cases"], trial["score"]
    told = f"Good and bad by the {score}, of {len(cases)} cases. {trial['told']}".strip()
    pictures = [caption(name, case, score) for kind in ("good", "bad") for case in cases if case["shown"] == kind]
    return "\n".join([f"{told}\n", *pictures, table_of(cases)])


def caption(name, case, score):
    """A picture, and below it what it shows."""
    kind = case["shown"]
    verdict = f"The {score}, {case['scores'][score]:.2f}, is the {'highest' if kind == 'good' else 'lowest'}."
    words = " ".join(part for part in (case["data"], verdict, case["seen"], case["remark"]) if part)
    picture = f"![{name}, the {kind} case: {case['name']}](../cards/{name}-{kind}.png)"
    return f"{picture}\n\n**{kind.capitalize()}: {case['name']}.** {words}\n"


def table_of(cases):
    """All cases and their scores."""
    columns = list(cases[0]["scores"])
    rows = []
    for case in cases:
        label = f"{case['name']} ({case['shown']})" if case["shown"] else case["name"]
        rows.append(" | ".join([f"| {label}", *(f"{case['scores'][column]:.3g}" for column in columns)]) + " |")
    return "\n".join([f"| case | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|", *rows, ""])


def kind_of(name, card):
    """What weights are known by here: their own name, or else that of their system."""
    return name if name in MORE else card.system


def section(name, scores):
    """The card of some weights."""
    card, file = xnowcast.card(name), shipped.path(name)
    options = ", ".join(f"`{key}={value!r}`" for key, value in card.options.items())
    rows = {
        "system": f"`{card.system}`: {card.description}",
        "reads": card.reads,
        "options": options,
        "parameters": f"{card.parameters:,}, {file.stat().st_size / 1e6:.2g} MB",
        "trained on": card.training_data,
        "split": "" if name.startswith("nwp-") else RADAR_SPLIT,
        "training": TRAINED[name],
        "limits": LIMITS[kind_of(name, card)],
        "licence": card.licence,
        "sha256": f"`{card.sha256[:16]}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    head = f"## {name}\n\n| | |\n|---|---|\n{table}\n"
    more = f"{MORE.get(kind_of(name, card), '')}\n"
    return "\n".join([head, scores_of(name, card, scores), more, good_and_bad(name, card)])


def by_event(scores, methods, cells, columns):
    """A table for each lead time: a row for each event and method, and the means over those held out."""
    rows = tables.by_event(scores, methods, cells)
    for minutes, part in rows.groupby("minutes"):
        table = tables.markdown(part, {"event": "event", "method": "method"}, columns, ["event"])
        yield f"After {minutes} minutes:\n\n{table}\n"


def page(scores):
    """The whole page."""
    quick = [name for name in ENSEMBLES if name not in SLOW]
    parts = [INTRODUCTION, *(section(name, scores) for name in shipped.names())]
    words = "\n".join(["| score | what it is |", "|---|---|", *(f"| {k} | {v} |" for k, v in WORDS.items())])
    starts = f"{tables.starts(scores, LARGE)}, and {tables.starts(scores, SMALL)}"
    parts += [JUDGED.format(events=tables.events(scores), words=words, starts=starts)]
    parts += ["## Forecasts by event\n", *by_event(scores, SINGLE, LARGE, tables.ONE)]
    parts += ["## Ensembles by event\n", *by_event(scores, quick, LARGE, tables.MANY)]
    return "\n".join([*parts, MORE_ROUNDS, *by_event(scores, ENSEMBLES, SMALL, tables.MANY)])


def whole(scores):
    """Whether all of the rounds is there."""
    large = {(LARGE, name) for name in (*SINGLE, *ENSEMBLES) if name not in SLOW}
    wanted = large | {(SMALL, name) for name in ENSEMBLES}
    return wanted <= set(zip(scores.cells, scores.method, strict=True))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--take", type=Path, metavar="FILE", help="scores.csv of a whole run, to keep as well")
    options = parser.parse_args()
    if options.take:
        if not whole(pd.read_csv(options.take)):
            raise SystemExit(f"{options.take} is not of a whole run of recipes/evaluate.py: nothing was written")
        shutil.copyfile(options.take, SCORES)
    scores = pd.read_csv(SCORES)
    PAGE.write_text(page(scores), encoding="utf-8")
    print(PAGE)
    for file in tables.pages(HERE.parent):
        file.write_text(tables.filled(file.read_text(encoding="utf-8"), scores), encoding="utf-8")
        print(file)


if __name__ == "__main__":
    main()

"""Write the page of model cards from the cards of the weights that ship and the scores of `evaluate.py`.

    python recipes/cards.py            # after: make evaluate, and card_pictures.py for weights that are new

The scores by event lie in recipes/results: copies of what `make evaluate` left in runs/evaluate and in
runs/evaluate_members. Good and bad cases are what `card_pictures.py` left in docs/cards.
"""

import json
from pathlib import Path

import pandas as pd

import xnowcast
from xnowcast.models import shipped

HERE = Path(__file__).resolve().parent
SCORES, MEMBERS = HERE / "results" / "forecast.csv", HERE / "results" / "members.csv"
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
how good it is: for that see the scores on real events. Pictures of those are not published here, for their owners'
terms; where the events lie on disk, `python recipes/evaluate.py` draws a forecast of each. Rain is in mm/h; grey is
where a forecast knows nothing, since the air comes from outside.
"""

FORECASTS = """## Forecasts by event

`make evaluate`: up to six starts of each event, the middle 512 x 512 cells, all methods on the same frames and
cells; Lucas-Kanade extrapolation (`lk`), S-PROG (`sprog`) and STEPS are those of
pysteps 1.21.5, `own sprog` is this package's. Ensembles (STLDM, STEPS)
have ten members, each judged as a forecast of its own but for the CRPS, which is the fair one; in its column single
forecasts have their mean absolute error. CSI at thresholds in mm/h; power is that at 4 to 8 km over the observed.
The weights were trained in other countries and years.
"""

ENSEMBLES = """## Ensembles by event

The same for ten members of STLDM and of STEPS, on the middle 256 x 256 cells and three starts of each event.
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
    "lagrangian": f"mean over three {EVENTS}; [by event](#forecasts-by-event)",
    "stldm": f"three {EVENTS}; [by event](#ensembles-by-event)",
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
    "stldm": "CRPS no better than that of STEPS; power of the members at 4 to 8 km 0.2 to 5 times the observed; slow, "
    "42 s of CPU time for ten members, an hour and 256 x 256 cells",
    "postcast": "makes grain of what is smooth by nature, and power that is wrong either way of forecasts whose "
    "rain rates were matched; some fields need 250 steps instead of 50",
    "stvd": "single frames, so that detail does not move from one to the next; grain where the composite is smooth",
    "nwp-mae": "of no use on a real forecast before it has learnt from pairs of it",
    "nwp-metnet": "of no use on a real forecast before it has learnt from pairs of it",
}
"""What one should know before taking them, by system."""


def scores_of(name, card):
    """The scores on a card, headed by what they were measured on."""
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


def section(name):
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
    return "\n".join([head, scores_of(name, card), f"{MORE.get(kind_of(name, card), '')}\n", good_and_bad(name, card)])


def by_event(scores):
    """A table for each lead time: a row for each event and method, and the means over events."""
    means = scores.groupby(["minutes", "method"], as_index=False, sort=False).mean(numeric_only=True)
    scores = pd.concat([scores, means.assign(event="mean")])
    columns = [*(name for name in scores if name.startswith("CSI")), "CRPS or MAE", "power"]
    head = f"| event | method | {' | '.join(columns)} |\n{'|---' * (2 + len(columns))}|"
    for minutes, part in scores.groupby("minutes"):
        rows = (
            f"| {event} | {method} | {' | '.join(f'{value:.3f}' for value in values)} |"
            for event, method, *values in part[["event", "method", *columns]].itertuples(index=False)
        )
        yield "\n".join([f"After {minutes} minutes:", "", head, *rows, ""])


def page():
    """The whole page."""
    parts = [INTRODUCTION, *(section(name) for name in shipped.names())]
    if SCORES.exists():
        scores = pd.read_csv(SCORES)
        parts += [FORECASTS, *by_event(scores)]
    if MEMBERS.exists():
        parts += [ENSEMBLES, *by_event(pd.read_csv(MEMBERS))]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)

"""Write docs/model_cards.md from the cards of the weights that ship and the scores that `evaluate.py` measured.

    python benchmarks/cards.py            # after: make evaluate

The scores by event lie in benchmarks/results: copies of what `make evaluate` left in runs/evaluate and in
runs/evaluate_members.
"""

from pathlib import Path

import pandas as pd

import xnowcast
from xnowcast import pretrained

HERE = Path(__file__).resolve().parent
SCORES, MEMBERS = HERE / "results" / "forecast.csv", HERE / "results" / "members.csv"
PAGE = HERE.parent / "docs" / "model_cards.md"

INTRODUCTION = """# Model cards

Weights that come with the package, one section each: what they read, what they were trained on, how well they do on
events that they never saw, and what they cannot do. `python benchmarks/cards.py` writes this page from the cards in
the files and from the scores that `make evaluate` measures; `python benchmarks/pretrain.py NAME` trains the weights
again. How to use them: [](models.md#weights-that-ship).
"""

FORECASTS = """## Forecasts by event

`make evaluate`: up to six starts of each event, the middle 512 x 512 cells, all methods on the same frames and
cells; Lucas-Kanade extrapolation (`lk`), S-PROG and STEPS are those of pysteps 1.21.5. Ensembles (STLDM, STEPS)
have ten members, each judged as a forecast of its own but for the CRPS, which is the fair one; in its column single
forecasts have their mean absolute error. CSI at thresholds in mm/h; power is that at 4 to 8 km over the observed.
The weights were trained in other countries and years.
"""

ENSEMBLES = """## Ensembles by event

The same for ten members of STLDM and of STEPS, on the middle 256 x 256 cells and three starts of each event.
"""

MORE = {
    "lagrangian": "[In the moving frame](recurrent.md#in-the-moving-frame) has the method.",
    "stldm": "[](stldm.md) has the method, and what its members are worth.",
    "postcast": "[](postcast.md#what-it-does-to-real-fields) has scores by event, pictures and limits.",
    "stvd": "[](stvd.md#what-it-learns) has scores by event and limits.",
    "nwp-mae": "[](nwp_mae.md#what-it-learns) has scores against the forecast's own rain and against other variants.",
    "nwp-metnet": "[](nwp_mae.md#what-it-learns) has scores against the forecast's own rain and against NWP-MAE.",
}
"""Where the rest is told, by system."""


def section(name):
    """The card of some weights."""
    card, file = xnowcast.card(name), pretrained.path(name)
    options = ", ".join(f"`{key}={value!r}`" for key, value in card.options.items())
    scores = ", ".join(f"{key} {value:.3g}" for key, value in card.scores.items())
    rows = {
        "system": f"`{card.system}`: {card.description}",
        "reads": card.reads,
        "options": options,
        "parameters": f"{card.parameters:,}, {file.stat().st_size / 1e6:.2g} MB",
        "trained on": card.training_data,
        "scores": scores,
        "licence": card.licence,
        "sha256": f"`{card.sha256[:16]}`",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value)
    return f"## {name}\n\n| | |\n|---|---|\n{table}\n\n{MORE.get(card.system, '')}\n"


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
    parts = [INTRODUCTION, *(section(name) for name in pretrained.names())]
    if SCORES.exists():
        scores = pd.read_csv(SCORES)
        parts += [FORECASTS, *by_event(scores)]
    if MEMBERS.exists():
        parts += [ENSEMBLES, *by_event(pd.read_csv(MEMBERS))]
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)

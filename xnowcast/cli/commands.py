"""``xnowcast forecast | hindcast | watch | deblur | downscale | train | compare | score ...`` on the command line."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any, NoReturn

import xnowcast
from xnowcast import check
from xnowcast.cli.flags import add_flags, arguments_of
from xnowcast.terminal import printable


class _Parser(argparse.ArgumentParser):
    """Tells of a wrong call in one line; the usage is one ``--help`` away."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message} (see {self.prog} --help)")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    ``arguments``: those of the process by default. Returned: 0, 2 after an error (told in one line on stderr; with
    ``--debug`` as a traceback), 130 after Ctrl-C. A run over an archive ends with 1 where batches are missing, and with
    3 where input could not be read.

    >>> main(["models", "persistence"])
    persistence: The newest frame, unchanged: what everybody must beat.
      reads       1 frame of any precipitation field, any step, grids of 8 x 8 cells or more
    0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        options = _parsed([word for word in words if word != "--debug"])
        for module in options.modules:
            _import(module)
        return options.run(options) or 0
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stderr.close()
        return 0
    except KeyboardInterrupt as interruption:
        message = printable(str(interruption)) or "interrupted; nothing half-written was left"
        print(f"xnowcast: {message}", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(f"xnowcast: {_in_one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)


def _parsed(words: list[str]) -> argparse.Namespace:
    parser = _parser()
    options, unknown = parser.parse_known_args(words)
    if unknown:
        command = _subparsers(parser)[options.command]
        flags = [flag for action in command._actions for flag in action.option_strings]
        flag, help_page = unknown[0].partition("=")[0], f"see xnowcast {options.command} --help"
        raise ValueError(f"xnowcast {options.command} takes no {flag}; {check.did_you_mean(flag, flags, help_page)}")
    return options


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(action.choices) for action in parser._actions if isinstance(action, argparse._SubParsersAction))


def _import(module: str) -> None:
    """Import a module of the user's that registers models, readers or scores; it may lie in the working folder."""
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        import_module(module)
    except ImportError as error:
        raise ValueError(f"--import {module}: {error}") from error


def _in_one_line(error: Exception) -> str:
    message = printable(str(error))
    message = re.sub(r"\b(variable|on_gap|on_mismatch|weights|mirror)=(?=([\w']?))", _as_option, message)
    explained = isinstance(error, ValueError | OSError | ImportError | FloatingPointError) or hasattr(
        error, "exit_code"
    )
    if explained and message:
        return message
    return f"{type(error).__name__}: {message} (run again with --debug to see where)"


def _as_option(argument: re.Match[str]) -> str:
    """``on_gap=`` of Python is ``--on-gap`` here."""
    return f"--{argument[1].replace('_', '-')}" + " " * bool(argument[2])  # a value may follow


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="xnowcast", description="Precipitation nowcasting on CF datasets.")
    parser.add_argument("--version", action="version", version=f"xnowcast {xnowcast.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser)
    for add in (
        _add_verbs,
        _add_hindcast,
        _add_watch,
        _add_train,
        _add_compare,
        _add_score,
        _add_convert,
        _add_models,
        _add_datasets,
        _add_demo,
    ):
        add(commands)
    for command in commands.choices.values():
        command.add_argument(
            "--import",
            dest="modules",
            action="append",
            default=[],
            metavar="MODULE",
            help="a module of yours that adds models or readers; may be repeated",
        )
        command.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=run)
    return command


# ---------------------------------------------------------------- one file to another

VERBS = {
    "forecast": ("Forecast from a radar file and write NetCDF or Zarr.", "a radar sequence"),
    "deblur": ("Sharpen a blurry forecast and write NetCDF or Zarr.", "a forecast, or any precipitation field"),
    "downscale": ("Refine a coarse field and write NetCDF or Zarr.", "a coarse precipitation field"),
    "postprocess": ("Correct the rain of an NWP forecast and write NetCDF or Zarr.", "the fields of an NWP forecast"),
    "explain": ("Show where a post-processor looks for a class of rain.", "the fields of an NWP forecast"),
}
"""Verbs that read a file and write one: what they do, and what they read."""


DEFAULTS = {"forecast": "lagrangian where it suits the data (with --members steps)"}
"""Models that run where none is named, in words, where it is not one for all data."""


def _add_verbs(commands: Any) -> None:
    from xnowcast.models.shipped import PREFERRED

    for name, (text, reads) in VERBS.items():
        command = _command(commands, name, _verb, text)
        command.add_argument(
            "input", help=f"{reads}: NetCDF, Zarr, radar product files (a quoted pattern), or a dataset's name"
        )
        command.add_argument("output", help="ends in .zarr or .nc")
        default = DEFAULTS.get(name, PREFERRED[name][0])
        add_flags(command, getattr(xnowcast, name), default_model=default, as_for=xnowcast.postprocess)
        command.add_argument("--overwrite", action="store_true", help="replace the output if it exists")


def _verb(options: argparse.Namespace) -> None:
    from xnowcast.data import storage

    verb = getattr(xnowcast, options.command)
    read = [getattr(options, name, None) for name in ("input", "model", "weights", "static", "grid")]
    output = storage.check_output(options.output, overwrite=options.overwrite, inputs=read)
    result = verb(storage.open_input(options.input), **arguments_of(options, verb))
    _write(result, output, overwrite=options.overwrite)


def _write(result: Any, output: Any, *, overwrite: bool) -> None:
    from xnowcast.data import storage
    from xnowcast.engine import progress_bar
    from xnowcast.verbs.request import to_do

    if not sys.stderr.isatty():  # nothing else would be seen until it is done
        print(printable(to_do(result)), file=sys.stderr)
    with progress_bar(None):
        storage.write(result, output, overwrite=overwrite)
    sizes = ", ".join(f"{dim} {size}" for dim, size in result.sizes.items() if dim != "bnds")
    print(printable(f"wrote {output}: {result.attrs['nowcast_model']}, {sizes}"))
    for array in result.data_vars.values():
        if "zr_a" in array.attrs:
            print(f"rain rate from reflectivity: Z = {array.attrs['zr_a']:g} R^{array.attrs['zr_b']:g}")


# ---------------------------------------------------------------- archives and real time


@contextmanager
def _log_on_stderr() -> Iterator[None]:
    """What archives log meanwhile goes to stderr: all of it into a file, and warnings alone beside a moving line."""
    import logging

    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING if sys.stderr.isatty() else logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("xnowcast.archive")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _add_hindcast(commands: Any) -> None:
    text = "Forecast from every init time of an archive into a Zarr store, or go on where that was stopped."
    command = _command(commands, "hindcast", _hindcast, text)
    command.add_argument("config", help="TOML with [data], [model], [hindcast] and [engine]: see configs/archive")
    command.add_argument("--out", help="the store, instead of the one in the file")
    command.add_argument("--overwrite", action="store_true", help="begin anew instead of going on")
    _add_set(command, "hindcast.members=20")


def _add_set(command: argparse.ArgumentParser, such_as: str) -> None:
    command.add_argument(
        "--set",
        dest="changes",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help=f"replace a value of the file, such as {such_as}",
    )


@_log_on_stderr()
def _hindcast(options: argparse.Namespace) -> int:
    from xnowcast.archive.config import run_hindcast
    from xnowcast.archive.store import MEANINGS, UNREADABLE

    stored = run_hindcast(options.config, options.changes, **_given(options))
    counts = stored["init_status"].to_series().value_counts().sort_index()
    became = ", ".join(f"{count} {MEANINGS[status].replace('_', ' ')}" for status, count in counts.items())
    size = stored.sizes["init_time"]
    print(printable(f"{stored.encoding['source']}: {stored.attrs['nowcast_model']}, {size} init times: {became}"))
    return 3 if UNREADABLE in counts.index else 0


def _given(options: argparse.Namespace) -> dict[str, Any]:
    """What is asked for beside a configuration, and goes before it."""
    out = {"out": options.out} if options.out else {}
    return out | ({"overwrite": True} if options.overwrite else {})


def _add_watch(commands: Any) -> None:
    from xnowcast import archive

    command = _command(commands, "watch", _watch, "Forecast from each new frame in a folder, until Ctrl-C.")
    command.add_argument("folder", help="where files arrive")
    add_flags(command, archive.watch, default_model=DEFAULTS["forecast"], as_for=xnowcast.forecast)


@_log_on_stderr()
def _watch(options: argparse.Namespace) -> None:
    from xnowcast.archive import watch

    made = watch(options.folder, **arguments_of(options, watch))
    print(f"{made} forecast{'' if made == 1 else 's'} in {options.out}")


# ---------------------------------------------------------------- train


def _add_train(commands: Any) -> None:
    command = _command(commands, "train", _train, "Train a model as a TOML file says.")
    command.add_argument("config", help="TOML with [model], [data] and [training]; configs/ has examples")
    command.add_argument("--out", help="the run folder, instead of the one in the file")
    command.add_argument("--resume", action="store_true", help="go on from the run folder's checkpoint, if it has one")
    _add_set(command, "training.steps=100")


def _train(options: argparse.Namespace) -> None:
    from xnowcast.training.train import train_from_config

    model = train_from_config(options.config, changes=options.changes, out=options.out, resume=options.resume)
    print(model.card)


# ---------------------------------------------------------------- compare


def _add_compare(commands: Any) -> None:
    text = "Train and score systems side by side as a TOML file says, or go on where that was stopped."
    command = _command(commands, "compare", _compare, text)
    command.add_argument("config", help="TOML with [data], [budget], [compare] and [systems.NAME]: see configs/compare")
    command.add_argument("--out", help="the folder of the comparison, instead of the one in the file")
    _add_set(command, "budget.cpu_seconds=30")


@_log_on_stderr()
def _compare(options: argparse.Namespace) -> None:
    from xnowcast.comparison import report
    from xnowcast.comparison.compare import compare_from_config

    card = compare_from_config(options.config, options.changes, out=options.out)
    print(report.markdown(report.summary_of(card)))


# ---------------------------------------------------------------- score


def _add_score(commands: Any) -> None:
    text = "Score a forecast file against observations, or models over an archive as a TOML file says."
    command = _command(commands, "score", _score, text)
    command.add_argument(
        "forecast", help="as xnowcast forecast wrote it; or TOML with [data], [models.NAME] and [score]"
    )
    command.add_argument("observations", nargs="?", help="NetCDF, Zarr, radar product files, or a dataset's name")
    command.add_argument("--thresholds", default="0.5,2,5,10", help="rain rates in mm/h, with commas; 0.5,2,5,10")
    command.add_argument("--scales", default="1,4,16", help="max-pooling windows in cells, with commas; 1,4,16")
    command.add_argument("--scores", help="such as csi,fss,crps; those of verify.scorecard by default")
    command.add_argument("--variable", help="the observed field, where a file has more than one")
    command.add_argument("--out", help="write all scores to this .nc or .zarr")
    command.add_argument("--overwrite", action="store_true", help="replace --out if it exists")
    command.add_argument("--picture", help="draw the CSI of an archive's models, with its intervals, to this .png")
    _add_set(command, "score.hours=3")


@_log_on_stderr()
def _score_archive(options: argparse.Namespace) -> int:
    from xnowcast import verify
    from xnowcast.archive import table_scores
    from xnowcast.archive.config import run_score
    from xnowcast.archive.picture import plot_table
    from xnowcast.archive.store import UNREADABLE

    tables = run_score(options.forecast, options.changes, **_given(options))
    scores = table_scores(tables)
    first = scores.isel(region=0, drop=True) if "region" in scores.dims else scores
    cards = {str(name): first.sel(model=name, drop=True) for name in first["model"].values}
    print(verify.format_scorecard(cards, scores=options.scores.split(",") if options.scores else ["csi"]))
    if options.picture:
        plot_table(tables.isel(region=0, drop=True) if "region" in tables.dims else tables, path=options.picture)
    return 3 if bool((tables["init_status"] == UNREADABLE).any()) else 0


def _score(options: argparse.Namespace) -> int | None:
    from xnowcast import verify
    from xnowcast.data import storage
    from xnowcast.engine import progress_bar

    if options.forecast.endswith(".toml"):
        return _score_archive(options)
    if options.picture:
        raise ValueError("--picture draws models of an archive (xnowcast score CONFIG.toml); leave it out here")
    if options.observations is None:
        raise ValueError(
            "observations are missing: xnowcast score FORECAST OBSERVATIONS, or xnowcast score CONFIG.toml"
        )
    if options.out:
        storage.check_output(options.out, overwrite=options.overwrite, inputs=[options.forecast, options.observations])
    forecast = storage.open_input(options.forecast)
    scores = verify.scorecard(
        storage.open_input(options.observations),
        forecast,
        thresholds=_numbers(options.thresholds, float, "--thresholds"),
        scales=_numbers(options.scales, int, "--scales"),
        scores=options.scores.split(",") if options.scores else None,
        variable=options.variable,
    )
    with progress_bar(None):
        scores = scores.compute()
    shown = options.scores.split(",") if options.scores else ["csi"]
    name = printable(str(forecast.attrs.get("nowcast_model", "forecast")))
    print(verify.format_scorecard({name: scores}, scores=shown))
    if options.out:
        print(printable(f"wrote {storage.write(scores, options.out, overwrite=options.overwrite)}"))
    return None


def _numbers(text: str, kind: type, option: str) -> list[Any]:
    try:
        return [kind(number) for number in text.split(",")]
    except ValueError:
        raise ValueError(f"{option} is {text!r}; write numbers with commas between") from None


# ---------------------------------------------------------------- published weights


def _add_convert(commands: Any) -> None:
    from xnowcast.models import convert
    from xnowcast.models.families import FAMILIES

    text = "Write weights that authors published as a weights file of this package; nothing is downloaded."
    command = _command(commands, "convert", _convert, text)
    command.add_argument("family", help=f"which weights: {', '.join(FAMILIES)}")
    command.add_argument("checkpoint", help="the authors' file, of torch or safetensors")
    command.add_argument("out", help="ends in .safetensors")
    add_flags(command, convert, default_model="")


def _convert(options: argparse.Namespace) -> None:
    from xnowcast.models import convert

    print(convert(options.family, options.checkpoint, options.out, **arguments_of(options, convert)))


# ---------------------------------------------------------------- lists


def _add_models(commands: Any) -> None:
    command = _command(commands, "models", _models, "List the models, or show one model's card.")
    command.add_argument("name", nargs="?", help="a model or a weights file")


def _models(options: argparse.Namespace) -> None:
    from xnowcast import models
    from xnowcast.models import shipped

    if options.name:
        print(xnowcast.card(options.name))
        return
    for name in sorted({*models.names(), *shipped.names()}):
        card = xnowcast.card(name)
        ships = card.sha256 or shipped.of_system(name)
        needs = "weights ship" if ships else "to be trained" if card.task.trained else "ready"
        members = "members" if card.task.stochastic else ""
        text = card.description if name == card.system else f"The weights of {card.system}{_for_factor(card.task)}."
        print(f"{name:<20} {card.task.verb:<12} {needs:<14} {members:<8} {text}")


def _for_factor(task: Any) -> str:
    return "" if task.factor is None else f" for a factor of {task.factor}"


def _add_datasets(commands: Any) -> None:
    command = _command(commands, "datasets", _datasets, "List the tutorial datasets, or fetch one.")
    command.add_argument("name", nargs="?", help="tell about this one")
    command.add_argument("--fetch", action="store_true", help="download and decode it into the cache")


def _datasets(options: argparse.Namespace) -> None:
    from xnowcast.data import datasets

    if options.name is None:
        for name in datasets.names():
            print(f"{name:<16} {datasets.describe(name)['title']}")
    elif options.fetch:
        print(datasets.open(options.name, progressbar=sys.stderr.isatty()))
    else:
        for key, value in datasets.describe(options.name).items():
            print(f"{key:<12} {value}")


def _add_demo(commands: Any) -> None:
    command = _command(commands, "demo", _demo, "Forecast, score and plot an event from end to end.")
    command.add_argument("--data", default="synthetic", help="a dataset's name or a file; synthetic by default")
    command.add_argument("--out", default="demo", help="folder for the forecast, the scores and the pictures")
    command.add_argument("--model", help="the model that is drawn; by default the best that ships for the data")
    command.add_argument("--variable", help="the field, where a file has more than one")


def _demo(options: argparse.Namespace) -> None:
    from xnowcast.cli.demo import run

    run(options.data, options.out, options.model, variable=options.variable)


if __name__ == "__main__":
    sys.exit(main())

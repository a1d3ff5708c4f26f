"""What the verbs of `edge-train` share: options out of recipes' fields, and what these options stand for."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Final, TypeVar, get_args, get_type_hints

from edge.images.conversion import Bounds
from edge.images.method import Method
from edge.records import Size
from edge.system.command import add_file, add_folder, add_verb, count, finite, whole
from edge.system.progress import Reporter
from train.bounds import MODES
from train.dataset import Row
from train.errors import TrainError
from train.files import results_folder
from train.recipe import ClassifierRecipe, Recipe, parse_size
from train.runner import Here, Processes, RayCluster, Runner
from train.survey import Survey, remarks, survey

if TYPE_CHECKING:  # both need torch
    from train.classifier.feature_cache import FeatureCache
    from train.classifier.features import Backbone

Verbs = argparse._SubParsersAction  # generic for type checkers alone
Command = Callable[[argparse.Namespace, Reporter], int]
_Recipe = TypeVar("_Recipe", bound=Recipe)

TORCH: Final = ("torch", "torchvision")
TRAIN_EXITS: Final = {
    1: "the request is refused, or a defect of this program",
    65: "the scans or their labels are not what the command needs",
    66: "a checkpoint is missing, damaged, or of another kind",
    70: "the training diverged, or a library does not load",
}
RUNS: Final = (65,)
"""Exit codes of a verb that reads scans."""
TRAINS: Final = (65, 66)
"""Exit codes of a verb that trains."""
CACHE_FOLDER: Final = "cache"
_METAVARS: Final = {int: "N", float: "X", Size: "HxW"}
_TYPES: Final = {int: whole, float: finite, Size: parse_size}
_OUT_OF_MEMORY: Final = re.compile("out of memory|can't allocate memory")
_NAMES: Final = {"method": ("--conversion", "--method")}
"""Options whose names are not the field's."""


def add_command(
    verbs: Verbs[argparse.ArgumentParser],
    name: str,
    summary: str,
    command: Command,
    *,
    description: str = "",
    examples: Sequence[str],
    exits: Collection[int] = RUNS,
    aliases: Sequence[str] = (),
    needs: Collection[str] = TORCH,
) -> argparse.ArgumentParser:
    """Add a verb that runs `command` where the modules it `needs` are installed."""
    words = {code: TRAIN_EXITS[code] for code in (1, 70, *exits)}
    verb = add_verb(verbs, name, summary, description=description, examples=examples, exits=words, aliases=aliases)
    verb.set_defaults(command=command, needs=needs)
    return verb


def run_command(options: argparse.Namespace) -> int:
    """Run the verb that was parsed, into a folder that it has for itself.

    Raises TrainError where a module it needs is not installed, another command has the folder or the memory does not
    suffice, OSError where the folder cannot be written.
    """
    for module in options.needs:
        if importlib.util.find_spec(module) is None:
            raise TrainError(
                f"`edge-train {options.verb}` needs {module}, which is not installed",
                hint="pip install electrode-line[train]",
            )
    out = getattr(options, "out", None)
    with nullcontext() if out is None else results_folder(out), Reporter() as reporter:
        command: Command = options.command
        try:
            return command(options, reporter)
        except (MemoryError, RuntimeError) as error:
            # Torch says it in words of its own, on the CPU and on a GPU.
            if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
                raise
            raise TrainError(
                f"the memory does not suffice for `edge-train {options.verb}`: {str(error).splitlines()[0]}",
                hint="take fewer scans, a smaller --size or --batch, or a machine with more",
            ) from error


def add_fields(
    verb: argparse.ArgumentParser,
    recipe: object,
    *,
    only: Collection[str] | None = None,
    decided: Mapping[str, str] | None = None,
) -> None:
    """Add an option for each field of a recipe that has a `help`: the field's name, type, choices and default.

    `only`: these fields. `decided`: fields that are None unless given, and what their help says of it.
    """
    kinds = get_type_hints(type(recipe))
    for field in fields(recipe):  # type: ignore[arg-type]
        if "help" not in field.metadata or (only is not None and field.name not in only):
            continue
        names = _NAMES.get(field.name, (f"--{field.name.replace('_', '-')}",))
        kind, default = kinds[field.name], getattr(recipe, field.name)
        said = "off" if kind is bool else display(default) if default != "" else "none"
        if decided is not None and field.name in decided:
            default, said = None, decided[field.name]
        about = f"{field.metadata['help']} (default: {said})".replace("%", "%%")
        if kind is bool:
            names = (f"--no-{field.name.replace('_', '-')}",) if default else names
            verb.add_argument(*names, dest=field.name, action="store_false" if default else "store_true", help=about)
            continue
        choices = [str(method) for method in Method] if kind is Method else list(get_args(kind))
        verb.add_argument(
            *names,
            dest=field.name,
            default=str(default) if isinstance(default, Method) else default,
            type=type(choices[0]) if choices else count if field.metadata["not_zero"] else _TYPES.get(kind, kind),
            choices=choices or None,
            metavar=None if choices else field.metadata["metavar"] or _METAVARS.get(kind),
            help=about,
        )


def recipe_of(kind: type[_Recipe], options: argparse.Namespace, **decided: object) -> _Recipe:
    """The recipe whose every choice is the option of the same name, or is `decided`."""
    values: dict[str, Any] = {**vars(options), **decided}
    chosen = {field.name: values[field.name] for field in fields(kind) if field.name in values}
    return kind(**chosen | {"method": Method(chosen["method"])})


def display(value: object) -> str:
    """A value as it is typed."""
    if isinstance(value, Size):
        return f"{value.height_px}x{value.width_px}"
    if isinstance(value, Bounds):
        return f"{value.lo_counts}..{value.hi_counts} counts"
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def add_data(
    verb: argparse.ArgumentParser,
    name: str = "data",
    about: str = "folder with labels.csv, or LOT/LABEL folders",
) -> None:
    """The folder of labelled scans."""
    add_folder(verb, name, metavar=name.upper(), about=about)


def add_out(verb: argparse.ArgumentParser, about: str, metavar: str = "DIR") -> None:
    """The folder for results."""
    add_folder(verb, "--out", about=about, metavar=metavar, required=True)


def add_bounds(verb: argparse.ArgumentParser) -> None:
    """Bounds that are given, or how they are found."""
    add_file(verb, "--bounds", about="bounds.json of `edge-train bounds` (default: found in the training lots)")
    verb.add_argument(
        "--bounds-mode",
        choices=MODES,
        default="per_scan",
        help="how bounds are found, as in `bounds --mode` (default: per_scan)",
    )


def add_jobs(verb: argparse.ArgumentParser, about: str = "processes on this machine") -> None:
    """How many processes."""
    verb.add_argument("--jobs", type=count, default=1, metavar="N", help=f"{about} (default: 1)")


def add_experiment(verb: argparse.ArgumentParser, recipe: str) -> None:
    """Arguments of each experiment on features of a frozen network; `recipe`: the usual one."""
    add_data(verb)
    add_out(verb, "folder for results; may hold some already")
    if recipe:
        about = f"paper, best, sheet, neighbours, or a TOML file (default: {recipe})"
        verb.add_argument("--recipe", default=recipe, help=about)
    add_fields(verb, ClassifierRecipe(), only=("size", "weights", "amp", "device", "seed"))
    add_jobs(verb)
    verb.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster instead; `local` starts one here (default: do not)"
    )
    add_cache(verb)
    verb.add_argument(
        "--skip-unreadable", action="store_true", help="leave out scans that cannot be read (default: refuse)"
    )


def add_cache(verb: argparse.ArgumentParser) -> None:
    """Where features of the frozen network are kept."""
    add_folder(verb, "--cache", about="features already computed (default: OUT/cache)")
    verb.add_argument("--cache-gib", type=finite, default=8.0, metavar="X", help="its greatest size (default: 8)")


def runner(jobs: int, ray: str | None = None) -> AbstractContextManager[Runner]:
    """Where tasks run: on a Ray cluster, in processes, or here."""
    if ray is not None:
        return RayCluster(ray)
    return Processes(jobs) if jobs > 1 else nullcontext(Here())


@contextmanager
def surveyed(options: argparse.Namespace, rows: Sequence[Row], reporter: Reporter) -> Iterator[tuple[Survey, Runner]]:
    """The scans of these rows, each read once, and where the tasks run. Raises DataError.

    Labels are read before the frozen network is opened, scans after it: what is soon found to be wrong comes first.
    """
    with runner(options.jobs, options.ray) as where:
        yield survey_of(rows, options, where, reporter), where


def survey_of(rows: Sequence[Row], options: argparse.Namespace, where: Runner, reporter: Reporter) -> Survey:
    """The scans of these rows, each read once; says which are left out, if the options allow it. Raises DataError."""
    count = reporter.counter("scans read")
    found = survey(rows, where, count, skip_unreadable=options.skip_unreadable)
    for problem in found.unreadable:
        reporter.say(f"left out: {problem}")
    for sentence in remarks(found):
        reporter.say(sentence)
    return found


def backbone_and_cache(options: argparse.Namespace, reporter: Reporter) -> tuple[Backbone, FeatureCache]:
    """The frozen network and the folder for its features. Raises TrainError for weights that cannot be had."""
    from train.classifier.features import open_backbone
    from train.device import choose_arithmetic
    from train.weights import random_warning

    if (warning := random_warning({"weights": options.weights})) is not None:
        reporter.say(warning)
    amp = choose_arithmetic(options.amp, options.device, reporter.say) == "bf16"
    backbone = open_backbone(options.weights, options.size, seed=options.seed, amp=amp, device=options.device)
    return backbone, feature_cache(options, reporter)


def feature_cache(options: argparse.Namespace, reporter: Reporter) -> FeatureCache:
    """The folder for features of a frozen network."""
    from train.classifier.feature_cache import GIB, FeatureCache
    from train.classifier.pooling import CHANNELS, TILES

    folder = options.cache or options.out / CACHE_FOLDER
    return FeatureCache(folder, (TILES, CHANNELS), max_bytes=int(options.cache_gib * GIB), say=reporter.say)


def command_line() -> str:
    r"""What was typed, for a report; bytes that are not UTF-8, as a path may hold, are `\xff`."""
    return os.fsencode(shlex.join(["edge-train", *sys.argv[1:]])).decode("utf-8", "backslashreplace")

"""Four programs, one grammar: what each verb's help holds, and where the verb lies."""

from __future__ import annotations

import argparse
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from edge.cli import in_verbs

ROOT = Path(__file__).parents[2]
PROGRAMS = {
    "edge-worker": "edge.cli",
    "edge-train": "train.cli",
    "edge-export": "export.cli",
    "edge-desk": "edge.desk.cli",
}
WITH_COMMANDS = ("edge-train",)
"""Programs whose verbs are modules of their own."""
MANY_KINDS = {"--out", "--size", "--print-completion"}
"""A file or a folder; also one number, for a square; the shells' names."""


@cache
def parser_of(program: str) -> argparse.ArgumentParser:
    """The parser of a program, as its main makes it."""
    caught: list[argparse.ArgumentParser] = []

    def catch(parser: argparse.ArgumentParser, *_: object) -> None:
        caught.append(parser)
        raise SystemExit

    main = importlib.import_module(PROGRAMS[program]).main
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", catch)
        with pytest.raises(SystemExit):
            main(["no-such-verb"])
    return caught[0]


def verbs_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for verb in set(action.choices.values()):
                yield verb
                yield from verbs_below(verb)


EVERY = sorted(
    ((parser.prog, parser) for name in PROGRAMS for parser in (parser_of(name), *verbs_below(parser_of(name)))),
    key=lambda pair: pair[0],
)
each_parser = pytest.mark.parametrize("parser", [parser for _, parser in EVERY], ids=[name for name, _ in EVERY])


def examples_of(parser: argparse.ArgumentParser) -> list[str]:
    found = re.search(r"^examples:\n((?:  .+\n)+)", parser.format_help(), re.MULTILINE)
    return [line.strip() for line in found[1].splitlines()] if found else []


def codes_of(parser: argparse.ArgumentParser) -> list[int]:
    """The exit codes its help lists, in the order of the help."""
    found = re.search(r"^exit codes:\n((?:  \d+ .+\n)+)", parser.format_help(), re.MULTILINE)
    return [int(line.split()[0]) for line in found[1].splitlines()] if found else []


def test_the_walk_finds_the_verbs() -> None:
    names = {name for name, _ in EVERY}
    assert {"edge-worker model show", "edge-train fit-features", "edge-train patches preview"} <= names
    assert {"edge-export model", "edge-export verify", "edge-desk user add"} <= names


@each_parser
def test_every_help_has_a_description_examples_and_exit_codes(parser: argparse.ArgumentParser) -> None:
    assert parser.description and len(parser.description) > 20 and "?" not in parser.description
    assert examples_of(parser)
    codes = codes_of(parser)
    assert codes == sorted(codes)
    assert set(codes) >= {0, 1, 2, 70, 74, 130}, "any verb can end with these: argparse and `run_program` give them"


@each_parser
def test_a_program_names_the_exit_codes_that_one_of_its_verbs_has_and_no_other(parser: argparse.ArgumentParser) -> None:
    below = [set(codes_of(verb)) for verb in verbs_below(parser)]
    assert not below or set(codes_of(parser)) == set.union(*below)


@each_parser
def test_every_example_is_a_command_that_parses(parser: argparse.ArgumentParser) -> None:
    for example in examples_of(parser):
        program, *words = shlex.split(re.split(" [<>] ", example)[0])
        verbs = in_verbs(words) if program == "edge-worker" else words
        assert {*parser.prog.split()} <= {program, *verbs}, "the example is of another verb"
        parser_of(program).parse_args(verbs)


@each_parser
def test_every_option_has_help_that_names_its_default(parser: argparse.ArgumentParser) -> None:
    silent = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction | argparse._HelpAction | argparse._VersionAction):
            continue
        if "--print-completion" in action.option_strings:
            continue
        if not action.help or (action.option_strings and not action.required and "default: " not in action.help):
            silent.append(action.dest)
    assert silent == []


def options() -> Iterator[tuple[str, argparse.Action]]:
    """Every option of every verb, with what is typed before it."""
    for program, parser in EVERY:
        for action in parser._actions:
            if action.option_strings and not isinstance(action, argparse._HelpAction | argparse._VersionAction):
                yield f"{program} {action.option_strings[0]}", action


def test_an_option_of_one_name_takes_one_kind_of_value_in_all_programs() -> None:
    kinds: dict[str, set[tuple[object, ...]]] = {}
    for name, action in options():
        option = name.rpartition(" ")[2]
        if option not in MANY_KINDS:
            kinds.setdefault(option, set()).add((action.nargs, action.type or str, action.metavar))
    assert {option: found for option, found in kinds.items() if len(found) > 1} == {}


def test_what_is_said_of_two_options_in_the_same_words_is_one_option() -> None:
    names: dict[str, set[str]] = {}
    for name, action in options():
        names.setdefault((action.help or "").partition(" (default")[0], set()).add(name.rpartition(" ")[2])
    assert {words: found for words, found in names.items() if len(found) > 1} == {}


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_its_version_and_prints_its_completion(program: str) -> None:
    module = [sys.executable, "-m", PROGRAMS[program]]
    version = subprocess.run([*module, "--version"], cwd=ROOT, capture_output=True, text=True, timeout=100)
    assert version.stdout.startswith(f"{program} ") and version.returncode == 0
    completion = subprocess.run(
        [*module, "--print-completion", "bash"], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    assert "complete" in completion.stdout and completion.returncode == 0


@pytest.mark.parametrize("program", WITH_COMMANDS)
def test_every_verb_is_a_module_of_its_name(program: str) -> None:
    room = ROOT / PROGRAMS[program].split(".")[0] / "commands"
    modules = {path.stem for path in room.glob("*.py")} - {"__init__", "options"}
    verbs = {verb.prog.split()[1].replace("-", "_") for verb in verbs_below(parser_of(program))}
    assert modules == verbs

"""The frame of each program: help that says the same things in the same places, errors as words and an exit code."""

from __future__ import annotations

import argparse
import logging
import math
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import shtab

from edge import __version__
from edge.errors import EdgeError, library_error
from edge.system.logs import configure_logging, leads_to_journal

if TYPE_CHECKING:
    from edge.settings import LogSettings, ServiceEnvironment

log = logging.getLogger(__name__)

IO_FAILED = 74
INTERRUPTED = 130


class _Help(argparse.RawDescriptionHelpFormatter):
    """Wraps descriptions, keeps the lines of examples, and breaks no path at its hyphens."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [indent + line for line in text.splitlines()]
        return "\n".join(line if line.startswith("  ") else textwrap.fill(line, width) for line in lines)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)


EXITS = {
    0: "done",
    1: "a defect of this program",
    2: "wrong words on the command line",
    65: "wrong data",
    70: "the engine, its device or a library failed",
    IO_FAILED: "a disk or a file failed",
    75: "the broker failed",
    78: "a setting or a model is refused",
    129: "stopped by SIGHUP, as by SIGTERM; systemd starts it again",
    INTERRUPTED: "interrupted",
}
"""Exit codes, mostly of sysexits.h, and what each says."""
COMMON_EXITS = (0, 1, 2, 70, IO_FAILED, INTERRUPTED)
"""Codes that any verb can end with: argparse gives 2, `run_program` the others."""


def run_program(program: str, command: Callable[[], int], *, stderr_prefix: str = "") -> int:
    """Run a command; an error becomes two lines, what went wrong and what to try, and its exit code.

    `stderr_prefix` begins each of the two lines, such as the priority that journald reads.
    """
    try:
        code = command()
        sys.stdout.flush()  # so that a reader that left is met here, not at the interpreter's exit
    except EdgeError as error:
        _say(program, error.message, error.hint, stderr_prefix)
        return error.exit_code
    except ImportError as error:
        log.info("a library does not load", exc_info=True)
        refusal = library_error(error)
        _say(program, refusal.message, refusal.hint, stderr_prefix)
        return refusal.exit_code
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of our output left, as `| head` does; keep the interpreter from complaining at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        log.info("a disk or a file failed", exc_info=True)
        hint = "look at the folder, who may read or write there, and the space on its disk"
        _say(program, str(error), hint, stderr_prefix)
        return IO_FAILED
    except Exception as error:
        log.critical(f"{program} ended by a defect", exc_info=True)
        _say(program, f"{type(error).__name__}: {error}", "report this with the log above", stderr_prefix)
        return EdgeError.exit_code
    return code


def run_service(
    program: str,
    run: Callable[[Sequence[str]], int],
    arguments: Sequence[str] | None,
    environment: ServiceEnvironment,
) -> int:
    """Run a program that systemd may have started with its arguments, by default those of the process.

    An error becomes one line of what and one of what to try, with their priority where the journal reads them, and an
    exit code of sysexits.h.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    is_journal = leads_to_journal(sys.stderr, environment.journal_stream)
    return run_program(program, lambda: run(words), stderr_prefix="<3>" if is_journal else "")


def start_log(program: str, settings: LogSettings, environment: ServiceEnvironment) -> None:
    """Log from here on as the settings say and as systemd or the terminal reads it, under the program's name."""
    configure_logging(
        settings.level,
        settings.format,
        program=program,
        journal_stream=environment.journal_stream,
        has_colour=environment.has_colour,
    )


def as_typed(program: str, words: Sequence[str]) -> tuple[str, ...]:
    """The running program and its arguments, for a hint; with its folder, which another user may not find by itself."""
    return (sys.argv[0] if Path(sys.argv[0]).name == program else program, *words)


def new_parser(
    program: str, description: str, *, examples: Sequence[str], exits: Sequence[int] | Mapping[int, str]
) -> argparse.ArgumentParser:
    """The parser of a program, with `--version` and shell completion; its verbs come from `add_verb`.

    `exits`: as of `add_verb`, those of all its verbs.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description=description,
        epilog=_epilog(examples, exits),
        formatter_class=_Help,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"{program} {__version__} (Python {platform.python_version()})"
    )
    shtab.add_argument_to(
        parser,
        "--print-completion",
        help=f"print the completion of a shell and exit, as in: source <({program} --print-completion bash)",
    )
    return parser


def add_verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    *,
    description: str = "",
    examples: Sequence[str],
    exits: Sequence[int] | Mapping[int, str],
    parents: Sequence[argparse.ArgumentParser] = (),
    aliases: Sequence[str] = (),
) -> argparse.ArgumentParser:
    """Add `PROGRAM VERB`: one line for the list of verbs, then what its own help says.

    `exits`: codes of EXITS beside the common ones, or codes with words of this verb's own.
    """
    return verbs.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}." + (f" {description}" if description else ""),
        epilog=_epilog(examples, exits),
        formatter_class=_Help,
        allow_abbrev=False,
        parents=parents,
        aliases=aliases,
    )


def path(text: str) -> Path:
    """Type of an option that names a file or a folder: not the working directory where a script's variable is empty."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return Path(text)


def moment(text: str) -> datetime:
    """Type of an option: a point in time (local unless it names a zone), or an age such as 90m, 12h, 7d."""
    units = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
    try:
        if text[-1:] in units and text[:-1].isdigit():
            return datetime.now(UTC) - int(text[:-1]) * units[text[-1]]
        return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: before the first day of the calendar
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r} is neither a time like 2026-03-01T06:00 nor an age like 12h"
        ) from None


def count(text: str) -> int:
    """Type of an option: a whole number from 1."""
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of them: expected 1 or more")
    return int(text)


def whole(text: str) -> int:
    """Type of an option: a whole number from 0 that fits 63 bits, as generators of random numbers take it."""
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) < 1 << 63):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no whole number: expected 0 or more, below 2^63")
    return int(text)


LARGEST: Final = 1e30
"""Greatest number that an option takes: what is computed with it in float32 stays finite."""


def finite(text: str) -> float:
    """Type of an option: a number from 0 to LARGEST."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no finite number: expected 0 or more, at most {LARGEST:g}")
    return value


def completes_folders(action: argparse.Action) -> None:
    """Let shells complete the option's value with names of folders."""
    action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]


def add_file(
    parser: argparse.ArgumentParser,
    *names: str,
    about: str,
    metavar: str = "FILE",
    required: bool = False,
    dest: str | None = None,
    default: str | None = None,
) -> None:
    """Add an argument that names a file; `default` is None or argparse.SUPPRESS."""
    only = _of_options(names, required, dest)
    action = parser.add_argument(*names, type=path, metavar=metavar, default=default, help=about, **only)
    action.complete = shtab.FILE  # type: ignore[attr-defined]


def add_folder(
    parser: argparse.ArgumentParser,
    *names: str,
    about: str,
    metavar: str = "DIR",
    required: bool = False,
    nargs: str | None = None,
    dest: str | None = None,
    default: str | None = None,
) -> None:
    """Add an argument that names a folder, or by `nargs` several; `default` is None or argparse.SUPPRESS."""
    only = _of_options(names, required, dest)
    completes_folders(
        parser.add_argument(*names, type=path, metavar=metavar, nargs=nargs, default=default, help=about, **only)
    )


def add_config(parser: argparse.ArgumentParser, about: str) -> None:
    """Add `--config`; without a default, so that a verb does not undo what stood before it."""
    add_file(parser, "--config", about=about, default=argparse.SUPPRESS)


def _of_options(names: Sequence[str], required: bool, dest: str | None) -> dict[str, Any]:
    """Arguments of `add_argument` that it takes for an option alone."""
    return {"required": required, "dest": dest} if names[0].startswith("-") else {}


def _epilog(examples: Sequence[str], exits: Sequence[int] | Mapping[int, str]) -> str:
    own = exits if isinstance(exits, Mapping) else {code: EXITS[code] for code in exits}
    words = {code: EXITS[code] for code in COMMON_EXITS} | dict(own)
    codes = [f"  {code:<4} {words[code]}" for code in sorted(words)]
    return "\n".join(["examples:", *(f"  {example}" for example in examples), "", "exit codes:", *codes])


def _say(program: str, message: str, hint: str, prefix: str) -> None:
    print(f"{prefix}{program}: {message}\n{prefix}  try: {hint}", file=sys.stderr)

"""`edge-desk`: serve the page, keep its accounts, verify its record, hand the answers to training."""

from __future__ import annotations

import argparse
import getpass
import logging
import pwd
import sys
from collections.abc import Sequence
from os import geteuid
from pathlib import Path

from edge.desk.accounts import add_account, disable_account
from edge.desk.store import FILE_NAME, DeskStore, open_to_verify
from edge.errors import DeskError, SettingsError
from edge.settings import DEFAULT_FILE, Settings, load_settings, service_environment, usual_file
from edge.store.requests import expect_box
from edge.system.command import EXITS, add_config, add_folder, add_verb, as_typed, new_parser, run_service, start_log
from edge.system.privilege import refuse_root

log = logging.getLogger(__name__)

PROGRAM = "edge-desk"


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    return run_service(PROGRAM, _run, arguments, service_environment())


def _run(words: Sequence[str]) -> int:
    options = _parser().parse_args(words)
    settings = load_settings(getattr(options, "config", None) or usual_file())
    start_log(PROGRAM, settings.log, service_environment())
    verb = options.verb if options.verb != "user" else f"user {options.user_verb}"
    written = (settings.desk.dir, settings.state.dir) if verb == "run" else (settings.desk.dir,)
    refuse_root(written, as_typed(PROGRAM, words))
    return _VERBS[verb](options, settings)


def _store(settings: Settings, *, may_make: bool = False) -> DeskStore:
    return DeskStore(_file(settings, may_make=may_make))


def _file(settings: Settings, *, may_make: bool = False) -> Path:
    file = settings.desk.dir / FILE_NAME
    if not settings.desk.dir.is_dir():
        raise SettingsError(
            f"the desk's folder {settings.desk.dir} is not there",
            hint="systemd makes it for the unit; else make it for the desk's user alone (mode 0700), or set `desk.dir`",
        )
    if not may_make and not file.exists():
        raise DeskError(f"there is no desk's file {file}", hint="check --config and `desk.dir`")
    return file


def _run_desk(_: argparse.Namespace, settings: Settings) -> int:
    try:
        from edge.desk.app import serve
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"the page needs the library {error.name}, which is not installed",
            hint="pip install 'electrode-line[desk]', or tools/constraints/desk.txt in place of line.txt",
        ) from None
    expect_box(settings.state.dir)  # a service sees no folder for writing that was made after its start
    with _store(settings, may_make=True) as store:
        return serve(settings, service_environment(), store)


def _user_add(options: argparse.Namespace, settings: Settings) -> int:
    with _store(settings, may_make=True) as store:
        print(add_account(store, options.name, _new_password(options.name), options.role, _who()))
    return 0


def _user_disable(options: argparse.Namespace, settings: Settings) -> int:
    with _store(settings) as store:
        print(disable_account(store, options.name, _who()))
    return 0


def _user_list(_: argparse.Namespace, settings: Settings) -> int:
    with _store(settings) as store:
        for account in store.accounts():
            print(f"{account.name:<40} {account.role:<7} {'disabled' if account.is_disabled else 'enabled'}")
    return 0


def _verify(options: argparse.Namespace, settings: Settings) -> int:
    from edge.desk.verify import verify

    with open_to_verify(_file(settings)) as store:
        problems, summary = verify(store, settings.evidence_dir, options.head)
    for problem in problems:
        print(problem)
    print(summary)
    return 65 if problems else 0


def _export(options: argparse.Namespace, settings: Settings) -> int:
    from edge.desk.export import export

    with _store(settings) as store:
        print(export(store, settings.evidence_dir, options.out, _who()))
    return 0


def _who() -> str:
    """Name of the operating system's user, for the record."""
    try:
        return f"os:{pwd.getpwuid(geteuid()).pw_name}"
    except KeyError:
        return f"os:{geteuid()}"


def _new_password(name: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass(f"password of {name}: ")
    if getpass.getpass("once more: ") != password:
        raise DeskError("the two passwords differ", hint="try again")
    return password


_VERBS = {
    "run": _run_desk,
    "user add": _user_add,
    "user disable": _user_disable,
    "user list": _user_list,
    "verify": _verify,
    "export": _export,
}


def _parser() -> argparse.ArgumentParser:
    parser = new_parser(
        PROGRAM,
        "The page where a person looks at what the line could not decide, and answers. "
        "It reads the settings of edge-worker; its own are in [desk].",
        examples=("edge-desk user add ann --role admin", "edge-desk run", "edge-desk verify"),
        exits=(65, 78),
    )
    common = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    add_config(common, f"settings file, TOML (default: {DEFAULT_FILE} where it is there)")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    add_verb(
        verbs,
        "run",
        "serve the page until SIGTERM",
        examples=("edge-desk run", "edge-desk run --config ./edge.toml"),
        exits=(78,),
        parents=[common],
    )
    user = add_verb(
        verbs,
        "user",
        "add, disable or list the accounts of the page",
        examples=("edge-desk user add ann --role admin",),
        exits=(78,),
    )
    users = user.add_subparsers(dest="user_verb", metavar="VERB", required=True)
    add = add_verb(
        users,
        "add",
        "add an account, or give one a new password and role and enable it again",
        description="Asks for the password twice; not on a terminal, it is the first line of the standard input.",
        examples=("edge-desk user add ann --role admin", "edge-desk user add bob < password.txt"),
        exits=(78,),
        parents=[common],
    )
    add.add_argument("name", metavar="NAME", help="1 to 40 of a-z 0-9 . _ -")
    add.add_argument(
        "--role",
        choices=("reader", "admin"),
        default="reader",
        help="an admin also decides where two readers do not agree (default: reader)",
    )
    disable = add_verb(
        users,
        "disable",
        "disable an account; who is logged in with it is logged out",
        examples=("edge-desk user disable bob",),
        exits=(78,),
        parents=[common],
    )
    disable.add_argument("name", metavar="NAME", help="the account")
    add_verb(
        users,
        "list",
        "list the accounts, their roles, and which are disabled",
        examples=("edge-desk user list",),
        exits=(78,),
        parents=[common],
    )
    verify = add_verb(
        verbs,
        "verify",
        "find any change of the record of answers and accounts",
        description="The desk may keep running; a copy that cannot be written will do. "
        "Prints the hash of the newest entry last: note it elsewhere.",
        examples=("edge-desk verify", "edge-desk verify --head 5f0c…"),
        exits={0: "nothing was changed", 65: "something was changed", 78: EXITS[78]},
        parents=[common],
    )
    verify.add_argument(
        "--head", metavar="HASH", help="a hash noted earlier, which must still be in the record (default: none)"
    )
    export = add_verb(
        verbs,
        "export",
        "write decided scans and labels.csv for edge-train",
        examples=("edge-desk export --out labelled",),
        exits=(65, 78),
        parents=[common],
    )
    add_folder(export, "--out", about="new or empty folder to write into", required=True)
    return parser


if __name__ == "__main__":
    sys.exit(main())

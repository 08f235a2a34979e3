"""`vmflow passwd`: the line of a login for the settings."""

from __future__ import annotations

import argparse
import getpass
import sys
from typing import Any

from pydantic import ValidationError

from collector.http.login import SECRET_CHARACTERS, hash_password, new_token
from collector.http.settings import TokenSettings, UserSettings
from collector.terminal import UsageError, say, tell

SHORTEST = 8
"""Characters of a password: NIST SP 800-63B, section 5.1.1."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("name", help="name of the login")
    parser.add_argument(
        "--role", choices=("reader", "operator", "agent"), default="reader",
        help="default: reader; agents have tokens only",
    )  # fmt: skip
    parser.add_argument(
        "--token", action="store_true", help="make a token for a program, instead of asking for a password"
    )


def run(args: argparse.Namespace) -> int:
    """Ask for the password (or make a token), print the line; exit code 2 for a name or password that cannot be."""
    try:
        line = _token_line(args.name, args.role) if args.token else _user_line(args.name, args.role)
    except (ValueError, EOFError) as error:
        raise UsageError(_explain(error)) from error
    say(line)
    return 0


def _token_line(name: str, role: Any) -> str:
    token, digest = new_token()
    entry = TokenSettings(name=name, token_hash=digest, role=role)  # type: ignore[arg-type] # becomes a SecretStr
    tell(f"The token, shown only now: {token}")
    tell("A line for access.tokens:")
    return f'{{name = "{entry.name}", token_hash = "{digest}", role = "{entry.role}"}}'


def _user_line(name: str, role: Any) -> str:
    password = _password()
    if not SHORTEST <= len(password) <= SECRET_CHARACTERS:
        raise ValueError(f"a password has {SHORTEST} to {SECRET_CHARACTERS} characters, this one has {len(password)}")
    digest = hash_password(password)
    entry = UserSettings(name=name, password_hash=digest, role=role)  # type: ignore[arg-type] # becomes a SecretStr
    tell("A line for access.users:")
    return f'{{name = "{entry.name}", password_hash = "{digest}", role = "{entry.role}"}}'


def _password() -> str:
    """From the terminal, twice, or the first line of standard input."""
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise ValueError("the passwords differ")
    return password


def _explain(error: ValueError | EOFError) -> str:
    if isinstance(error, ValidationError):
        return "; ".join(f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors(include_url=False))
    return str(error) or "no password was given"

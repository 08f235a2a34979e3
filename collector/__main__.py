"""The command line: `vmflow COMMAND`.  Each command's code is loaded only when it is asked for."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from collector import terminal
from collector.version import ENGINE, VERSION

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    """A subcommand: the module that has `add_arguments(parser)` and `run(args) -> int`, and its line of help."""

    module: str
    help: str


COMMANDS = {
    "run": Command("collector.commands.run", "run the service"),
    "replay": Command("collector.replay", "send the datagrams of captures again, to a collector"),
    "decode": Command("collector.offline", "decode captures to JSON lines, CSV or Arrow, without a service"),
    "query": Command("collector.store.query", "ask the running service, or the store if none runs, with SQL"),
    "exporters": Command("collector.commands.exporters", "who exports, how much, and what of it was lost"),
    "inventory": Command("collector.commands.inventory", "who is who: VMs, interfaces; traffic without a name"),
    "rules": Command("collector.commands.rules", "rules of alerts: list, test over stored windows, suggest limits"),
    "alerts": Command("collector.commands.alerts", "alerts: list, acknowledge, resolve, silence; try a receiver"),
    "check": Command("collector.commands.check", "check the settings and say what they mean"),
    "passwd": Command("collector.commands.passwd", "hash a password or make a token, for the settings"),
    "schema": Command("collector.store.schema", "print the tables' DDL; apply migrations"),
    "warmup": Command("collector.commands.warmup", "compile the decoders now, for images and first starts"),
}

EPILOG = """\
Settings come from a TOML file (--config FILE, else VMFLOW_CONFIG, else ~/.config/vmflow/vmflow.toml, else
/etc/vmflow/vmflow.toml), from variables such as VMFLOW_WEB__PORT=9090 and from --set web.port=9090, in rising order.
`vmflow COMMAND --help` tells more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code: 0 done, 1 failed, 2 a mistake in the call or in the settings."""
    terminal.begin()
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = _parser(arguments)
    args = parser.parse_args(arguments)
    if args.command is None:
        parser.print_help()
        return EXIT_USAGE
    run: Callable[[argparse.Namespace], int] = import_module(COMMANDS[args.command].module).run
    try:
        return run(args)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (head, less) has left: not an error, but nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except Exception:  # noqa: BLE001 - a defect; Python itself would print what the error quotes as it is
        terminal.tell(*traceback.format_exc().splitlines())
        return EXIT_FAILED


def _parser(arguments: Sequence[str]) -> terminal.Parser:
    """The parser; only the command that is asked for declares its arguments, so `--help` stays quick."""
    parser = terminal.Parser(
        prog="vmflow",
        description="VM-to-VM traffic monitor: sFlow, NetFlow and IPFIX over UDP to ClickHouse.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engine = f"chDB {ENGINE}" if ENGINE else "without chDB"
    parser.add_argument("--version", action="version", version=f"vmflow {VERSION}, {engine}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    asked = next((argument for argument in arguments if argument in COMMANDS), None)
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help[0].upper() + command.help[1:] + ".")
        if name == asked:
            import_module(command.module).add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())

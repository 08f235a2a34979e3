"""The command line: `vmflow COMMAND`.  Each command's code is loaded only when it is used."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

from collector import terminal
from collector.commands.completion import SHELLS, script
from collector.version import ENGINE, VERSION

LINE_CHARACTERS = 300
"""Characters of a defect's message."""
EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 0, 1, 2, 130


class Command(NamedTuple):
    """A subcommand: the module that has `add_arguments(parser)` and `run(args) -> int`, and its help line."""

    module: str
    help: str


COMMANDS = {
    "run": Command("collector.commands.run", "run the service"),
    "demo": Command("collector.commands.demo", "watch a made-up cloud with trouble, or captures; nothing of it stays"),
    "replay": Command("collector.commands.replay", "send the datagrams of captures again, to a collector"),
    "decode": Command("collector.commands.decode", "decode captures to JSON lines, CSV or Arrow, without a service"),
    "mirror": Command("collector.commands.mirror", "mirrored packets: who talked, round trips and losses of TCP"),
    "query": Command("collector.commands.query", "ask the running service, or the store if none runs, with SQL"),
    "top": Command("collector.commands.top", "the busiest VM pairs of the last window, as they change"),
    "exporters": Command("collector.commands.exporters", "who exports, how much, and what of it was lost"),
    "inventory": Command("collector.commands.inventory", "who is who: VMs, interfaces; traffic without a name"),
    "rules": Command("collector.commands.rules", "rules of alerts: list, test over stored windows, suggest limits"),
    "alerts": Command("collector.commands.alerts", "alerts: list, acknowledge, resolve, silence; try a receiver"),
    "agent": Command("collector.commands.agent", "loss and delay between two machines: send probes, answer them"),
    "check": Command("collector.commands.check", "check the settings and say what they mean"),
    "init": Command("collector.commands.init", "write a settings file, and say what to type at Open vSwitch"),
    "deploy": Command("collector.commands.deploy", "write files: systemd, sysctl, Prometheus, Grafana, Docker, Helm"),
    "passwd": Command("collector.commands.passwd", "hash a password or make a token, for the settings"),
    "schema": Command("collector.commands.schema", "print the tables' DDL; apply migrations"),
    "warmup": Command("collector.commands.warmup", "compile the kernels now, for images and first starts"),
}

EPILOG = """\
Settings come from a TOML file (--config FILE, else VMFLOW_CONFIG, else ~/.config/vmflow/vmflow.toml, else
/etc/vmflow/vmflow.toml), from variables such as VMFLOW_WEB__PORT=9090 and from --set web.port=9090, in rising order.
`vmflow COMMAND --help` shows more.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code: 0 done, 1 failed, 2 a mistake in the call or in the settings."""
    terminal.begin()
    try:
        return _run(list(sys.argv[1:] if argv is None else argv))
    except KeyboardInterrupt:
        # Also while the command's modules are loaded, which takes seconds on a busy machine.
        return EXIT_INTERRUPTED


def _run(arguments: Sequence[str]) -> int:
    """Run one command, and report what it raises, except KeyboardInterrupt."""
    # Only the command used declares its arguments, so `--help` stays quick.
    named = [argument for argument in arguments if argument in COMMANDS][:1]
    try:
        parser = _parser(named)
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help()
            return EXIT_USAGE
        run: Callable[[argparse.Namespace], int] = import_module(COMMANDS[args.command].module).run
    except ModuleNotFoundError as error:
        # Installed with --no-deps.
        terminal.print_error(
            " ".join(named), f"needs {error.name}, which is not installed; `vmflow agent` alone does without libraries"
        )
        return EXIT_USAGE
    try:
        return run(args)
    except terminal.CommandError as error:
        terminal.print_error(args.command, str(error))
        return error.code
    except BrokenPipeError:
        # The reader (head, less) has left: not an error, but nothing more can be printed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        terminal.print_error(args.command, _system_error(error))
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001 - a defect; Python itself would print what the error quotes as it is
        if args.traceback:
            terminal.tell(*traceback.format_exc().splitlines())
        else:
            place = traceback.extract_tb(error.__traceback__)[-1]
            terminal.print_error(
                args.command,
                f"a defect of vmflow: {type(error).__name__}: {' '.join(str(error).split())[:LINE_CHARACTERS]} "
                f"({Path(place.filename).name}:{place.lineno}); `vmflow --traceback {args.command} …` shows more",
            )
        return EXIT_FAILED


def _system_error(error: OSError) -> str:
    """Return what the system says, and about which file."""
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    return ": ".join([*names, error.strerror or str(error)])


def whole_parser() -> terminal.Parser:
    """Return the parser with the arguments of all commands: for the manual page and for shells."""
    return _parser(COMMANDS)


class _Completion(argparse.Action):
    """The action that prints what a shell completes, and exits."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: object, shell: Any, option: object = None) -> None:
        terminal.data(script(whole_parser(), shell).encode())
        parser.exit()


def _parser(declared: Iterable[str]) -> terminal.Parser:
    """Return the parser, with the arguments of these commands."""
    parser = terminal.Parser(
        prog="vmflow",
        description="VM-to-VM traffic monitor: sFlow, NetFlow and IPFIX over UDP to ClickHouse.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    engine = f"chDB {ENGINE}" if ENGINE else "without chDB"
    parser.add_argument("--version", action="version", version=f"vmflow {VERSION}, {engine}")
    parser.add_argument(
        "--print-completion", action=_Completion, choices=SHELLS, metavar="SHELL",
        help=f"print what {', '.join(SHELLS)} completes, for a file that the shell reads, and exit",
    )  # fmt: skip
    parser.add_argument("--traceback", action="store_true", help="show the trace of a defect of vmflow, to report it")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help[0].upper() + command.help[1:] + ".")
        if name in declared:
            import_module(command.module).add_arguments(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())

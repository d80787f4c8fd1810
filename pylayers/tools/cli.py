"""The command ``pylayers``: a table of its commands. Each is a module with HELP, EXAMPLE, add_arguments and run."""

import argparse
import importlib
import os
import sys

import pylayers
from pylayers.errors import UserError, system_message
from pylayers.tools import arguments, device, report

# The command, its module in `pylayers.tools`, and whether it needs Caffe to run. None needs it for its help.
COMMANDS = (
    ("compare", "compare", True),
    ("bench", "bench", True),
    ("check-gradient", "check_gradient", True),
    ("doctor", "doctor", False),
    ("plot-log", "plot_log", False),
    ("class-weights", "class_weights", True),
    ("train", "train", False),  # it imports Caffe itself, when it knows how many threads there may be
)


def main(command_line=None):
    """Runs a command.

    Args:
        command_line: what follows ``pylayers``, a list; from the process's command line by default.

    Returns:
        The exit status; 2 for a mistake of the user's, with one line on stderr.
    """
    if command_line is None:
        os.environ.setdefault("GLOG_minloglevel", "2")  # warnings and errors only; Caffe reads it at import
    name, mistake = "pylayers", None
    try:
        options = parser().parse_args(command_line)
        name += f" {options.command}"
        if options.needs_caffe:
            device.import_caffe()
        status = options.run(options)
    except UserError as error:
        mistake = str(error)
    except OSError as error:
        mistake = system_message(error)
    mistake = report.unwritten() or mistake
    if mistake:
        print(f"{name}: {mistake}", file=sys.stderr)
        return 2
    return status


def parser():
    """The parser of all commands."""
    found = arguments.Parser(prog="pylayers", description="Tools for Python loss layers in Caffe.")
    found.add_argument("--version", action="version", version=f"pylayers {pylayers.__version__}")
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=arguments.Parser)
    for name, module, needs_caffe in COMMANDS:
        command = importlib.import_module(f"pylayers.tools.{module}")
        added = commands.add_parser(
            name,
            help=command.HELP,
            description=f"{command.HELP[0].upper()}{command.HELP[1:]}.",
            epilog=command.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(added)
        added.set_defaults(run=command.run, needs_caffe=needs_caffe)
    return found

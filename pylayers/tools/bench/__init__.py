"""`pylayers bench`: what each loss layer costs beside its built-in twin."""

from pylayers.tools import arguments
from pylayers.tools.twins import PAIRS

HELP = "time each layer alone against its built-in twin"
EXAMPLE = """\
example:
  pylayers bench --layer softmax --repeat 10 --plot bench.png"""


def add_arguments(parser):
    """The command's arguments."""
    timed = sorted(name for name, pair in PAIRS.items() if pair.timed)
    parser.add_argument("--layer", choices=timed, action="append", help="this one only; may be repeated")
    arguments.add_device(parser)
    parser.add_argument(
        "--repeat", type=arguments.positive, default=15, metavar="N", help="rounds (default: %(default)s)"
    )
    arguments.add_outputs(parser)


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status, 0.

    Raises:
        UserError: an output that cannot be written, or no GPU to use.
    """
    if options.device == "gpu":
        from pylayers.tools.bench import gpu

        return gpu.run(options)
    from pylayers.tools.bench import cpu

    return cpu.run(options)

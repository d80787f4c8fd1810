"""The commands of the kit: their arguments and exit statuses. What they do is in the module of their name."""

import argparse
import math
import os
import sys

import caffe

from pylayers.output import UserError

COMPARE_EXAMPLE = """\
example:
  pylayers compare prototxt/euclidean_loss.prototxt prototxt/euclidean_loss_builtin.prototxt --json result.json

exit status: 0 within the tolerance, 1 not, 2 for an input that cannot be used"""

BENCH_EXAMPLE = """\
example:
  pylayers bench --layer softmax --repeat 10 --plot bench.png"""


class _Parser(argparse.ArgumentParser):
    """Ends with one line for a mistake, and not with the usage before it."""

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments=None):
    """The command ``pylayers``.

    Args:
        arguments: what follows the command's name; from the command line by default.

    Returns:
        The exit status; 2 for a mistake of the user's, with one line on stderr.
    """
    parser = _parser()
    options = parser.parse_args(arguments)
    # Warnings and errors only. The package imports Caffe first, too early for GLOG_minloglevel in os.environ;
    # init_log may be called once in a process, and is missing from an old pycaffe.
    if "GLOG_minloglevel" not in os.environ and arguments is None and hasattr(caffe, "init_log"):
        caffe.init_log(2)
    try:
        return options.run(options)
    except (UserError, OSError) as error:
        print(f"pylayers {options.command}: {error}", file=sys.stderr)
        return 2


def _parser():
    parser = _Parser(prog="pylayers", description="Tools for Python loss layers in Caffe.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add_compare(commands)
    _add_bench(commands)
    return parser


def _add_compare(commands):
    parser = _add(commands, "compare", "hold two nets against each other, losses and gradients", COMPARE_EXAMPLE)
    parser.add_argument("a", nargs="?", metavar="A.prototxt", help="a net, such as one with a Python loss")
    parser.add_argument("b", nargs="?", metavar="B.prototxt", help="a net with the same inputs and loss tops")
    parser.add_argument("--all", action="store_true", help="each layer of the kit against its built-in twins instead")
    parser.add_argument("--phase", choices=("test", "train"), default="test", help="default: test")
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument(
        "--loss-weight",
        dest="loss_weights",
        type=_finite,
        action="append",
        metavar="X",
        help="factor of every loss weight; may be given several times (default: 1, 0.3 and -2)",
    )
    parser.add_argument(
        "--tolerance", type=_tolerance, default=1e-6, metavar="X", help="largest relative difference (default: 1e-6)"
    )
    parser.add_argument("--seed", type=_whole, default=1, metavar="N", help="of the random inputs (default: 1)")
    parser.add_argument(
        "--labels",
        action="append",
        default=[],
        metavar="BLOB:CLASSES",
        help="an input that holds labels, where the net does not tell (label:10)",
    )
    parser.add_argument("--data", metavar="FILE.h5", help="take the inputs from data sets of their names")
    parser.add_argument("--repeat", type=_positive, default=5, metavar="N", help="timed runs (default: 5)")
    _add_outputs(parser)
    parser.set_defaults(run=_compare)


def _compare(options):
    from pylayers import compare, compare_all

    options.loss_weights = tuple(options.loss_weights or compare.Settings().loss_weights)
    if options.all:
        if options.a or options.data or options.labels:
            raise UserError("--all takes neither nets nor --data or --labels; it makes its own")
        return compare_all.run(options)
    if not options.b:
        raise UserError("give two nets, A.prototxt and B.prototxt, or --all; see pylayers compare --help")
    return compare.run(options)


def _add_bench(commands):
    from pylayers.bench import CASES

    parser = _add(commands, "bench", "time each layer alone against its built-in twin", BENCH_EXAMPLE)
    parser.add_argument(
        "--layer", choices=sorted({case.pair for case in CASES}), action="append", help="this one only; may be repeated"
    )
    parser.add_argument("--repeat", type=_positive, default=15, metavar="N", help="rounds (default: 15)")
    _add_outputs(parser)
    parser.set_defaults(run=_bench)


def _bench(options):
    from pylayers import bench

    return bench.run(options)


def _add(commands, name, description, example):
    return commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_outputs(parser):
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=_png, metavar="FILE.png", help="draw the result here")


def _png(text):
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, found {text!r}")
    return text


def _finite(text):
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, found {text!r}")
    return value


def _tolerance(text):
    value = _finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, found {text!r}")
    return value


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, found {text!r}") from None


def _whole(text):
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2147483647, found {text!r}")
    return int(text)


def _positive(text):
    value = _whole(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1, found 0")
    return value

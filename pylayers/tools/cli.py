"""The commands of the kit: their arguments and exit statuses. What they do is in the module of their name."""

import argparse
import importlib
import math
import os
import sys

from pylayers.params import Integer
from pylayers.tools.report import UserError

COMPARE_EXAMPLE = """\
example:
  pylayers compare prototxt/euclidean_loss.prototxt prototxt/euclidean_loss_builtin.prototxt --json result.json

exit status: 0 within the tolerance, 1 not, 2 for an input that cannot be used"""

BENCH_EXAMPLE = """\
example:
  pylayers bench --layer softmax --repeat 10 --plot bench.png"""


CHECK_GRADIENT_EXAMPLE = """\
example:
  pylayers check-gradient my_losses:FocalLossLayer --bottom 4,10 --bottom 4 --labels 1:10 --param-str '{"gamma": 2}'
  pylayers check-gradient InnerProduct --bottom 4,10 \\
      --params 'inner_product_param { num_output: 3 weight_filler { type: "xavier" } }'
  pylayers check-gradient --net net.prototxt --layer loss --phase train

exit status: 0 where the gradient is right, 1 where not, 2 for a layer or bottoms that cannot be used"""

PLOT_LOG_EXAMPLE = """\
example:
  pylayers plot-log caffe.log -o curves.png --csv caffe.csv"""

CLASS_WEIGHTS_EXAMPLE = """\
example:
  pylayers class-weights train.txt:label --classes 21 --ignore-label 255 --json weights.json

SOURCE is one of
  labels.npy         an array, its first axis the images: (N,), (N, H, W), (N, 1, H, W)
  labels.h5:label    a data set of an HDF5 file, its first axis the images
  list.txt:label     the same of all the HDF5 files that the list names, as HDF5Data's source does
  train_lmdb:label   the label of each Datum of an LMDB, as convert_imageset writes it
  train_lmdb:data    label maps: Datums of one channel, bytes or floats, or a grey PNG

The weight of class c is median(freq) / freq(c); freq(c) is the number of its pixels divided by all pixels in the
images that show it, or, with one label an item, its share of the labels. A class that never occurs gets 0."""

DOCTOR_EXAMPLE = """\
example:
  pylayers doctor                                            # Caffe, its Python module, protobuf, NumPy
  pylayers doctor prototxt/demo/digits_solver.prototxt       # these, and the nets that the solver names
  pylayers doctor net.prototxt --gpu 0,1                     # before caffe train --gpu 0,1

GPU mode, and then CuPy, are checked where caffe train would use them: with --gpu, or with solver_mode: GPU written in
the solver. A net by itself is checked in each phase in which it is whole.

exit status: 0 where nothing is wrong, or nothing but warnings; 1 for errors; 2 for a file that cannot be used"""


class _Parser(argparse.ArgumentParser):
    """Ends with one line for a mistake, and not with the usage before it.

    Attributes:
        arguments: a function that adds the arguments, called when they are needed: most commands' need Caffe, and
            `doctor` must do without.
    """

    arguments = None

    def parse_known_args(self, args=None, namespace=None):
        add, self.arguments = self.arguments, None
        if add:
            add(self)
        return super().parse_known_args(args, namespace)

    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


def main(arguments=None):
    """The command ``pylayers``.

    Args:
        arguments: what follows the command's name; from the command line by default.

    Returns:
        The exit status; 2 for a mistake of the user's, with one line on stderr.
    """
    if arguments is None:
        os.environ.setdefault("GLOG_minloglevel", "2")  # warnings and errors only; Caffe reads it at import
    command = "pylayers"
    try:
        options = _parser().parse_args(arguments)
        command = f"pylayers {options.command}"
        return options.run(options)
    except (UserError, OSError) as error:
        print(f"{command}: {error}", file=sys.stderr)
        return 2


def _parser():
    parser = _Parser(prog="pylayers", description="Tools for Python loss layers in Caffe.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _add(commands, "compare", "hold two nets against each other, losses and gradients", COMPARE_EXAMPLE, _add_compare)
    _add(commands, "bench", "time each layer alone against its built-in twin", BENCH_EXAMPLE, _add_bench)
    _add(
        commands,
        "check-gradient",
        "hold a layer's backward against differences of its forward",
        CHECK_GRADIENT_EXAMPLE,
        _add_check_gradient,
    )
    _add(
        commands,
        "doctor",
        "say what is wrong with Caffe, a net or a solver, before Caffe does",
        DOCTOR_EXAMPLE,
        _add_doctor,
    )
    _add(commands, "plot-log", "draw what Caffe's solver logs, or write it as CSV", PLOT_LOG_EXAMPLE, _add_plot_log)
    _add(
        commands,
        "class-weights",
        "median frequency weights for a loss's classes",
        CLASS_WEIGHTS_EXAMPLE,
        _add_class_weights,
    )
    return parser


def _add_compare(parser):
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
    _need_caffe()
    from pylayers.tools.compare import all_layers as compare_all
    from pylayers.tools.compare import two_nets as compare

    options.loss_weights = tuple(options.loss_weights or compare.Settings().loss_weights)
    if options.all:
        if options.a or options.data or options.labels:
            raise UserError("--all takes neither nets nor --data or --labels; it makes its own")
        return compare_all.run(options)
    if not options.b:
        raise UserError("give two nets, A.prototxt and B.prototxt, or --all; see pylayers compare --help")
    return compare.run(options)


def _add_bench(parser):
    _need_caffe()
    from pylayers.tools.bench.cpu import CASES

    parser.add_argument(
        "--layer", choices=sorted({case.pair for case in CASES}), action="append", help="this one only; may be repeated"
    )
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")
    parser.add_argument("--repeat", type=_positive, default=15, metavar="N", help="rounds (default: 15)")
    _add_outputs(parser)
    parser.set_defaults(run=_bench)


def _bench(options):
    from pylayers.tools.bench import cpu as bench

    return bench.run(options)


def _add_check_gradient(parser):
    _need_caffe()
    from pylayers import gradient_check

    parser.add_argument("subject", nargs="?", metavar="LAYER", help="module:Class, or a type of Caffe's own")
    parser.add_argument("--bottom", type=_shape, action="append", metavar="SHAPE", help="of each bottom, such as 4,10")
    parser.add_argument(
        "--labels",
        type=_index_and_classes,
        action="append",
        default=[],
        metavar="INDEX:CLASSES",
        help="a bottom that holds labels",
    )
    parser.add_argument(
        "--constant", type=_whole, action="append", default=[], metavar="INDEX", help="a bottom without a gradient"
    )
    parser.add_argument("--param-str", default="", metavar="TEXT", help="of a Python layer")
    parser.add_argument("--params", default="", metavar="TEXT", help="more fields of the layer, as prototxt text")
    parser.add_argument(
        "--net",
        metavar="FILE",
        help="take the layer, and its bottoms' values, from this net; its inputs are filled with random numbers",
    )
    parser.add_argument("--layer", metavar="NAME", help="the layer's name in that net")
    parser.add_argument("--loss-weight", type=_finite, metavar="X", help="the first top's diff (default: 0.3)")
    defaults = {
        "--step": (gradient_check.STEP, "relative to the root mean square of a blob"),
        "--threshold": (gradient_check.THRESHOLD, "what a derivative may be off, of the blob's largest"),
        "--kink": (0.0, "where forward may have a kink"),
        "--kink-range": (-1.0, "how near to it values are skipped; negative for no kink"),
    }
    for option, (default, text) in defaults.items():
        kind = _above_zero if option in ("--step", "--threshold") else _finite
        parser.add_argument(option, type=kind, default=default, metavar="X", help=f"{text} (default: {default:g})")
    parser.add_argument("--seed", type=_whole, default=1701, metavar="N", help="of all random numbers (default: 1701)")
    parser.add_argument("--phase", choices=("test", "train"), default="test", help="default: test")
    parser.set_defaults(run=_check_gradient)


def _check_gradient(options):
    from pylayers import gradient_check

    sys.path.insert(0, os.getcwd())  # a user's module lies where the command is typed
    return gradient_check.run(options)


def _add_doctor(parser):
    parser.add_argument("file", nargs="?", metavar="FILE.prototxt", help="a net or a solver; none for Caffe alone")
    parser.add_argument("--gpu", type=_gpus, metavar="IDS", help="as for caffe train, such as 0 or 0,1 or all")
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.set_defaults(run=_doctor)


def _doctor(options):
    from pylayers.tools import doctor

    return doctor.run(options)


def _add_plot_log(parser):
    parser.add_argument("log", metavar="LOG", help="what caffe train wrote to stderr")
    parser.add_argument("-o", "--output", type=_png, metavar="FILE.png", help="the curves")
    parser.add_argument("--csv", metavar="FILE", help="all numbers, one a row")
    parser.set_defaults(run=_plot_log)


def _plot_log(options):
    from pylayers.tools import plot_log

    return plot_log.run(options)


def _add_class_weights(parser):
    _need_caffe()
    parser.add_argument("source", metavar="SOURCE", help="the labels that the net is trained on, see below")
    # The largest label plus one would leave out classes that these labels lack, and take 255 for a class.
    parser.add_argument(
        "--classes", type=_classes, required=True, metavar="N", help="how many, as many as the net's scores have"
    )
    parser.add_argument("--ignore-label", type=_label, metavar="N", help="the label of what does not count")
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.set_defaults(run=_class_weights)


def _class_weights(options):
    from pylayers import class_weights

    return class_weights.run(options)


def _add(commands, name, description, example, arguments):
    parser = commands.add_parser(
        name,
        help=description,
        description=description[0].upper() + description[1:] + ".",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.arguments = arguments


def _need_caffe():
    try:
        importlib.import_module("caffe")
    except Exception as error:  # whatever a broken Caffe raises
        message = str(error).strip().partition("\n")[0]
        raise UserError(f"cannot import Caffe ({message}); pylayers doctor says what is wrong with it") from None


def _add_outputs(parser):
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=_png, metavar="FILE.png", help="draw the result here")


def _png(text):
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, found {text!r}")
    return text


def _gpus(text):
    if text != "all" and not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be GPU numbers, such as 0 or 0,1, or all, found {text!r}")
    return text


def _shape(text):
    try:
        shape = tuple(int(size) for size in text.split(","))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 1:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1, such as 4,10, found {text!r}")
    return shape


def _index_and_classes(text):
    index, _, classes = text.partition(":")
    if not (index.isdecimal() and classes.isdecimal() and int(classes)):
        raise argparse.ArgumentTypeError(
            f"must be a bottom's index and a number of classes, such as 1:10, found {text!r}"
        )
    return int(index), int(classes)


def _finite(text):
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, found {text!r}")
    return value


def _above_zero(text):
    value = _finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, found {text!r}")
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


def _label(text):
    try:
        return Integer(None).check(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{Integer.rule}, found {text!r}") from None


def _classes(text):
    value = _positive(text)
    if value > Integer.LIMIT:
        raise argparse.ArgumentTypeError(f"must be at most {Integer.LIMIT}, found {text!r}")
    return value


def _positive(text):
    value = _whole(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1, found 0")
    return value

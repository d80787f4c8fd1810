"""`pylayers check-gradient`: compares a layer's backward with differences of its forward."""

import os
import re
import sys

from pylayers.caffe_facts import GRADIENT_CHECKER
from pylayers.errors import UserError
from pylayers.tools import arguments

HELP = "hold a layer's backward against differences of its forward"
EXAMPLE = """\
example:
  pylayers check-gradient my_losses:FocalLossLayer --bottom 4,10 --bottom 4 --labels 1:10 --param-str '{"gamma": 2}'
  pylayers check-gradient InnerProduct --bottom 4,10 \\
      --params 'inner_product_param { num_output: 3 weight_filler { type: "xavier" } }'
  pylayers check-gradient my_losses:CrossEntropyLayer --bottom 4,10 --softmax 0 --bottom 4 --labels 1:10
  pylayers check-gradient --net net.prototxt --layer loss --phase train

exit status: 0 where the gradient is right, 1 where it is wrong or forward cannot tell, 2 for a layer or bottoms that
cannot be used"""


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("subject", nargs="?", metavar="LAYER", help="module:Class, or a type of Caffe's own")
    parser.add_argument(
        "--bottom", type=arguments.shape, action="append", metavar="SHAPE", help="of each bottom, such as 4,10"
    )
    parser.add_argument(
        "--labels",
        type=arguments.labels_of_bottom,
        action="append",
        default=[],
        metavar="INDEX:CLASSES",
        help="a bottom that holds labels",
    )
    parser.add_argument(
        "--constant",
        type=arguments.whole,
        action="append",
        default=[],
        metavar="INDEX",
        help="a bottom without a gradient",
    )
    parser.add_argument(
        "--range",
        type=arguments.range_of_bottom,
        action="append",
        default=[],
        metavar="INDEX:LOW,HIGH",
        help="a bottom whose values lie in this range",
    )
    parser.add_argument(
        "--softmax",
        type=arguments.axis_of_bottom,
        action="append",
        default=[],
        metavar="INDEX[:AXIS]",
        help="a bottom that holds probabilities, with sum 1 along this axis (default: 1)",
    )
    parser.add_argument(
        "--data",
        metavar="FILE.h5",
        help='take the bottoms from data sets "0", "1" and so on, or of their names; with --net its inputs',
    )
    parser.add_argument("--tops", type=arguments.positive, metavar="N", help="how many tops the layer has (default: 1)")
    parser.add_argument("--param-str", default="", metavar="TEXT", help="of a Python layer")
    parser.add_argument("--params", default="", metavar="TEXT", help="more fields of the layer, as prototxt text")
    parser.add_argument(
        "--net",
        metavar="FILE",
        help="take the layer, and its bottoms' values, from this net; its inputs are filled with random numbers",
    )
    parser.add_argument("--layer", metavar="NAME", help="the layer's name in that net; of two with one name, NAME:2")
    parser.add_argument("--loss-weight", type=arguments.finite, metavar="X", help="the first top's diff (default: 0.3)")
    numbers = {
        "step": (arguments.above_zero, "relative to the root mean square of a blob"),
        "threshold": (arguments.above_zero, "what a derivative may be off, of the blob's largest"),
        "kink": (arguments.finite, "where forward may have a kink"),
        "kink_range": (arguments.finite, "how near to it values are skipped; negative for no kink"),
        "seed": (arguments.whole, "of all random numbers"),
    }
    for name, (kind, text) in numbers.items():
        option, default = f"--{name.replace('_', '-')}", GRADIENT_CHECKER[name]
        parser.add_argument(option, type=kind, default=default, metavar="X", help=f"{text} (default: %(default)g)")
    arguments.add_phase(parser)


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status: 0 where the gradient is right, 1 where not or where forward cannot tell.

    Raises:
        UserError: there is no such layer, Caffe refuses it or its bottoms, or every derivative is 0.
    """
    from pylayers.caffe_nets import child
    from pylayers.gradient_check.report import NOTHING_PROVEN

    if not (options.subject or (options.net and options.layer)):
        raise UserError("give a layer, as module:Class or a type of Caffe's, or --net and --layer")
    sys.path.insert(0, os.getcwd())  # a user's module lies where the command is typed
    try:
        report = child.call(check, options, name=options.net or options.subject)
    except UserError as error:
        found = re.search(r"\((\d+) vs\. (\d+)\).* top blob\(s\) as output", str(error))
        lacks = found and int(found[1]) > int(found[2]) and not options.net
        raise UserError(f"{error}; --tops {found[1]} gives it as many" if lacks else str(error)) from None
    if report.nothing_proven:
        raise UserError(NOTHING_PROVEN)
    print(report)
    return 0 if report.passed else 1


def check(options):
    """Checks the layer that the options name. It runs in a child process, as Caffe ends the process for a wrong layer.

    Args:
        options: as for `run`.

    Returns:
        A `pylayers.gradient_check.Report`.

    Raises:
        UserError: the layer or its bottoms cannot be used.
    """
    try:
        return _check(options)
    except UserError:
        raise
    except Exception as error:  # whatever a user's layer raises
        _explain(error, options)
        raise


def _check(options):
    from pylayers.caffe_nets.read import PHASES
    from pylayers.gradient_check import NothingToCheckError, check_gradient
    from pylayers.tools.check_gradient import bottoms as of_bottoms
    from pylayers.tools.check_gradient.layers import by_name, in_net

    if options.net:
        layer, bottoms = in_net(options)
    else:
        layer = by_name(options)
        bottoms = of_bottoms.of_options(layer, options)
    same = ("loss_weight", *GRADIENT_CHECKER)
    try:
        return check_gradient(
            layer,
            of_bottoms.fill(bottoms, options),
            labels=dict(options.labels),
            constants=options.constant,
            phase=PHASES[options.phase],
            **{name: getattr(options, name) for name in same},
        )
    except NothingToCheckError as error:
        raise UserError(str(error)) from None


def _explain(error, options):
    """Raises a UserError that names the place, if an exception comes from a user's own code."""
    from pylayers.caffe_nets.users_code import described, place_of

    place = place_of(error)
    if place:
        name = options.layer or options.subject
        raise UserError(f"{name}: {described(error)}{_hint(place.code, error, options)}") from None


def _hint(code, error, options):
    """What to try for an error in a line that asks for more tops, or that speaks of them."""
    asks = re.search(r"\btop\w*\[[1-9]|len\(top|= *top\w*$", code) or re.search(r"\btops?\b", str(error))
    if options.net or not asks:
        return ""
    count = options.tops or 1
    return f"; the layer has {count} top{'s' * (count > 1)} here: --tops {count + 1} gives it another"

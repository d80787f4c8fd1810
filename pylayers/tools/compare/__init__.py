"""`pylayers compare`: compares two nets, or each layer of the kit with its built-in twins."""

from typing import NamedTuple, Optional

from pylayers.errors import UserError
from pylayers.tools import arguments

HELP = "hold two nets against each other, losses and gradients"
EXAMPLE = """\
example:
  pylayers compare prototxt/euclidean_loss.prototxt prototxt/euclidean_loss_builtin.prototxt --json result.json

exit status: 0 within the tolerance, 1 not, 2 for an input that cannot be used"""


class Settings(NamedTuple):
    """How to compare."""

    phase: str = "test"
    device: str = "cpu"
    loss_weights: tuple = (1.0, 0.3, -2.0)  # factors of the loss weights in the nets
    tolerance: float = 1e-6  # largest relative difference, of losses and of gradients
    seed: int = 1
    labels: tuple = ()  # pairs of an input and its number of classes
    data: Optional[str] = None  # an HDF5 file with the values of the inputs
    repeat: int = 5  # timed runs


def add_arguments(parser):
    """The command's arguments."""
    default = Settings()
    parser.add_argument("a", nargs="?", metavar="A.prototxt", help="a net, such as one with a Python loss")
    parser.add_argument("b", nargs="?", metavar="B.prototxt", help="a net with the same inputs and loss tops")
    parser.add_argument("--all", action="store_true", help="each layer of the kit against its built-in twins instead")
    arguments.add_phase(parser)
    arguments.add_device(parser)
    parser.add_argument(
        "--loss-weight",
        dest="loss_weights",
        type=arguments.finite,
        action="append",
        metavar="X",
        help="factor of every loss weight; may be given several times "
        f"(default: {', '.join(f'{weight:g}' for weight in default.loss_weights)})",
    )
    parser.add_argument(
        "--tolerance",
        type=arguments.tolerance,
        default=default.tolerance,
        metavar="X",
        help="largest relative difference (default: %(default)g)",
    )
    parser.add_argument(
        "--seed",
        type=arguments.whole,
        default=default.seed,
        metavar="N",
        help="of the random inputs (default: %(default)s)",
    )
    parser.add_argument(
        "--labels",
        type=arguments.labels,
        action="append",
        default=[],
        metavar="BLOB:CLASSES",
        help="an input that holds labels, where the net does not tell (label:10)",
    )
    parser.add_argument("--data", metavar="FILE.h5", help="take the inputs from data sets of their names")
    parser.add_argument(
        "--repeat",
        type=arguments.positive,
        default=default.repeat,
        metavar="N",
        help="timed runs (default: %(default)s)",
    )
    arguments.add_outputs(parser)


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status: 0 within the tolerance, 1 not.

    Raises:
        UserError: an input that cannot be used, or an output that cannot be written.
    """
    options.loss_weights = tuple(options.loss_weights or Settings().loss_weights)
    settings = Settings(**{field: getattr(options, field) for field in Settings._fields})
    if options.all:
        if options.a or options.data or options.labels:
            raise UserError("--all takes neither nets nor --data or --labels; it makes its own")
        from pylayers.tools.compare import all_layers

        return all_layers.run(options, settings)
    if not options.b:
        raise UserError("give two nets, A.prototxt and B.prototxt, or --all; see pylayers compare --help")
    from pylayers.tools.compare import two_nets

    return two_nets.run(options, settings)

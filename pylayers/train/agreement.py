"""Whether all ranks train the same net: found at the start, since later they would wait for each other."""

import caffe

import pylayers
from pylayers.errors import UserError

# Paths may differ from host to host; what is in the nets' files is compared.
_PATHS = ("net", "train_net", "test_net", "snapshot_prefix", "source", "mean_file", "root_folder")
_OPTIONS = ("same_data", "local_normalizer", "restart_data", "snapshot")


def check(solver, param, nets, options, ranks):
    """Compares what the ranks have. All ranks must call it.

    Args:
        solver: the solver, with its nets.
        param: its SolverParameter.
        nets: the NetParameters of its nets.
        options: the command's.
        ranks: a `Ranks`.

    Raises:
        UserError: on rank 0, another has something else; it says which, and what.
    """
    if ranks.count == 1:
        return
    every = ranks.gather((ranks.host, _what(solver, param, nets, options)))
    (_, first), *others = every
    for number, (host, found) in enumerate(others, 1):
        for key in first:
            if found[key] != first[key]:
                ours, theirs = _difference(first[key], found[key])
                ranks.raise_alike(
                    UserError(
                        f"{ranks.name(number)} on {host} has another {key} than rank 0 on {every[0][0]}: "
                        f"{theirs}, and rank 0 has {ours}"
                    )
                )


def _what(solver, param, nets, options):
    return {
        "version of pylayers": pylayers.__version__,
        "version of Caffe": caffe.__version__,
        "option": [f"{name}: {bool(getattr(options, name))}" for name in _OPTIONS],
        "solver": _lines(param),
        "net": [line for net in nets for line in _lines(net)],
        "net's parameters": [
            (name, [tuple(blob.data.shape) for blob in blobs]) for name, blobs in solver.net.params.items()
        ],
    }


def _lines(message):
    """The text of a message, without its paths."""
    lines = map(str.strip, str(message).splitlines())
    return [line for line in lines if line.partition(":")[0] not in _PATHS]


def _difference(ours, theirs):
    """Where two values differ: of two lists the first items that do."""
    if not isinstance(ours, list):
        return ours, theirs
    return next((one, other) for one, other in zip([*ours, "nothing"], [*theirs, "nothing"]) if one != other)

"""Whether all ranks train the same net: found at the start, since later they would wait for each other."""

import caffe

import pylayers
from pylayers.errors import UserError

# Paths may differ from host to host; what is in the nets' files is compared.
_PATHS = ("net", "train_net", "test_net", "snapshot_prefix")


def check(solver, param, ranks):
    """Compares what the ranks have. All ranks must call it.

    Args:
        solver: the solver, with its nets.
        param: its SolverParameter.
        ranks: a `Ranks`.

    Raises:
        UserError: on rank 0, another has something else; it says which, and what.
    """
    if ranks.count == 1:
        return
    every = ranks.gather((ranks.host, _what(solver, param)))
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


def _what(solver, param):
    net = solver.net
    settings = {field.name: str(value) for field, value in param.ListFields() if field.name not in _PATHS}
    return {
        "version of pylayers": pylayers.__version__,
        "version of Caffe": caffe.__version__,
        "solver": sorted(settings.items()),
        "net": [f'layer "{name}" ({layer.type})' for name, layer in zip(net._layer_names, net.layers)],
        "net's parameters": [(name, [tuple(blob.data.shape) for blob in blobs]) for name, blobs in net.params.items()],
        "test nets": [[f'layer "{name}"' for name in each._layer_names] for each in solver.test_nets],
    }


def _difference(ours, theirs):
    """Where two values differ: of two lists the first items that do."""
    if not isinstance(ours, list):
        return ours, theirs
    for one, other in zip([*ours, "nothing"], [*theirs, "nothing"]):
        if one != other:
            return one, other
    return ours, theirs

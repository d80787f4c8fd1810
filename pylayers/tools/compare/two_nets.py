"""`pylayers compare`: compares two nets with the same inputs and the same loss tops.

Both run forward and backward on the same inputs. Layers that have the same name, and parameters of the same shapes, get
the same parameters. Each loss weight is multiplied by several factors in turn. Every loss is compared, and the gradient
of every blob that comes into the net from outside.
"""

import functools
import statistics
import time
from typing import NamedTuple

import caffe
import numpy as np
from google.protobuf import text_format

from pylayers.caffe_facts import loss_weights
from pylayers.caffe_nets import build, child, read
from pylayers.caffe_nets.child_main import at
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.tools import device, report
from pylayers.tools.compare import values

# Filled into each gradient before backward: it stays where no layer writes. No gradient is that large.
_UNTOUCHED = np.finfo(np.float32).min
# Edges of the error histograms, relative errors; what is smaller or larger counts in the first or last bin.
BIN_EDGES = 10.0 ** np.arange(-12, 1.5, 0.5)


class Pass(NamedTuple):
    """One net after forward and backward: dicts from blob to array."""

    losses: dict
    gradients: dict


def run(options, settings):
    """Runs the command for two nets.

    Args:
        options: the parsed arguments.
        settings: `pylayers.tools.compare.Settings`.

    Returns:
        The exit status: 0 within the tolerance, 1 not.

    Raises:
        UserError: an input that cannot be used, or an output that cannot be written.
    """
    names = options.a, options.b
    with report.result_files(options) as (json_file, plot_file):
        pair = [read.read(path, settings.phase) for path in names]
        child.call(try_out, [text_format.MessageToString(param) for param in pair], names, settings, name=names[0])
        result = {"a": options.a, "b": options.b, **compare(pair, settings), "machine": report.machine()}
        _print(result)
        report.write_json(json_file, result)
        if plot_file:
            times, rows = result["times_ms"], result["rows"]
            errors = {f"{row['what']} {row['blob']}, weight {row['loss_weight']:g}": row["errors"] for row in rows}
            plot(plot_file, names, errors, {kind: [times[net][kind] for net in "ab"] for kind in times["a"]})
    return 0 if result["within_tolerance"] else 1


def try_out(texts, names, settings):
    """Loads two nets one after the other, and runs them once.

    It is called in a child process, which Caffe ends where a net is wrong.

    Args:
        texts: the nets' prototxt texts.
        names: the names of their files.
        settings: `Settings`.

    Raises:
        UserError: the nets do not match each other or the data.
    """
    pair = [read.parse(text, settings.phase) for text in texts]
    for param, name in zip(pair, names):
        at(name)
        build.load(read.with_loss_weight(param, 1), read.PHASES[settings.phase])
    at(" and ".join(names))
    one_pass(pair, settings, settings.loss_weights[0])


def compare(pair, settings):
    """Compares two nets.

    Args:
        pair: two NetParameters from `read.read`.
        settings: `Settings`.

    Returns:
        A dict for JSON: the settings; ``rows``, one for each blob and loss weight, see `_row`; ``times_ms``, the
        medians of both nets; ``within_tolerance``.

    Raises:
        UserError: the nets do not match each other or the data.
    """
    rows = []
    for factor in settings.loss_weights:
        loaded, results = one_pass(pair, settings, factor)
        exact = _reference(pair[0], loaded[0], factor)
        a, b = results
        for top in a.losses:
            rows.append(_row("loss", top, factor, a.losses[top], b.losses[top], exact.losses.get(top)))
        for blob in a.gradients:
            found = [a.gradients[blob], b.gradients[blob], exact.gradients.get(blob)]
            if any(gradient is not None and gradient.any() for gradient in found):
                rows.append(_row("gradient", blob, factor, *found))
    return {
        **settings._asdict(),
        "within_tolerance": all(row["relative"] <= settings.tolerance for row in rows),  # NaN is not
        "rows": rows,
        "times_ms": dict(zip("ab", _times(loaded, settings))),
    }


def one_pass(pair, settings, factor):
    """Loads both nets with their loss weights times `factor` and runs them once.

    Args:
        pair: two NetParameters.
        settings: `Settings`.
        factor: what each loss weight is multiplied by.

    Returns:
        The two nets and the `Pass` of each.
    """
    device.use(settings.device)
    loaded = []
    for param in pair:
        caffe.set_random_seed(settings.seed)
        loaded.append(build.load(read.with_loss_weight(param, factor), read.PHASES[settings.phase]))
    _check_match(pair, loaded)
    _copy_params(*loaded)
    data = values.of_inputs(pair, loaded, settings)
    blobs = [name for name in _sources(pair[0]) if name in _sources(pair[1])]
    losses = _loss_tops(pair[0])
    return loaded, [_run(net, data, losses, blobs, settings.seed) for net in loaded]


def plot(path, names, errors, times):
    """Draws the histograms of the errors, and bars of the times.

    Args:
        path: the PNG file.
        names: of the two sides.
        errors: a dict from title to the counts of a histogram over `BIN_EDGES`.
        times: a dict from title to the two sides' milliseconds.
    """
    pyplot = report.pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for title, counts in errors.items():
        left.stairs(counts, BIN_EDGES, label=title)
    left.set(xscale="log", xlabel="relative error (equal bits: none)", ylabel="elements", title="differences")
    left.set_yscale("symlog", linthresh=1)
    left.legend(fontsize="x-small")
    position = np.arange(len(times))
    for side, (name, colour) in enumerate(zip(names, ("tab:orange", "tab:gray"))):
        right.barh(position + 0.4 * side, [pair[side] for pair in times.values()], 0.4, label=name, color=colour)
    right.set_yticks(position + 0.2, list(times))
    right.invert_yaxis()
    right.set(xlabel="milliseconds", title="times")
    right.legend(fontsize="x-small")
    figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def _loss_tops(param):
    return [top for layer in param.layer for top in loss_weights(layer)]


def _sources(param):
    """The blobs that come into a net from outside: the tops of the layers without bottoms."""
    return [*param.input, *(top for layer in param.layer if not layer.bottom for top in layer.top)]


def _check_match(pair, loaded):
    tops = [set(_loss_tops(param)) for param in pair]
    needed = [set(net.inputs) for net in loaded]
    for kind, (a, b) in (("losses", tops), ("inputs", needed)):
        if a != b:
            raise UserError(f"the nets' {kind} do not match: A has {quoted(a)}, B has {quoted(b)}")
    for blob in sorted(set(_sources(pair[0])) & set(_sources(pair[1]))):
        a, b = (tuple(net.blobs[blob].shape) for net in loaded)
        if a != b:
            raise UserError(f'the blob "{blob}" has shape {a} in A and {b} in B; it must be the same in both')


def _copy_params(source, target):
    for name in source.params:
        blobs = [list(net.params[name]) if name in net.params else [] for net in (source, target)]
        if [tuple(blob.shape) for blob in blobs[0]] == [tuple(blob.shape) for blob in blobs[1]]:
            for from_blob, to_blob in zip(*blobs):
                to_blob.data[...] = from_blob.data


def _run(net, data, losses, blobs, seed):
    for name, value in data.items():
        net.blobs[name].data[...] = value
    caffe.set_random_seed(seed)  # Dropout and DummyData draw the same in both nets
    net._forward(0, len(net.layers) - 1)
    for name in blobs:
        net.blobs[name].diff[...] = _UNTOUCHED
    build.backward(net)
    return Pass(
        {name: net.blobs[name].data.copy() for name in losses},
        {name: _gradient(net.blobs[name]) for name in blobs},
    )


def _gradient(blob):
    """A blob's gradient; one that no layer wrote is 0."""
    diff = blob.diff.copy()
    return np.zeros_like(diff) if (diff == _UNTOUCHED).all() else diff


def _reference(param, net, factor):
    """The losses that have a formula in float64, and the gradients of the blobs that only they take.

    Args:
        param: the NetParameter of the net.
        net: the net itself, after a forward pass: the values of the bottoms are read from it.
        factor: what its loss weights have been multiplied by.

    Returns:
        A `Pass`.
    """
    exact = Pass({}, {})
    layers = read.lead_to_loss(param.layer)
    built = dict(zip(net._layer_names, net.layers))
    for layer in layers:
        weight = loss_weights(layer).get(layer.top[0]) if layer.top else None
        formula = getattr(built[layer.name], "reference", None)
        found = formula and weight and formula([net.blobs[name].data for name in layer.bottom])
        if found:
            exact.losses[layer.top[0]], gradients = found
            for name, gradient in zip(layer.bottom, gradients):
                if gradient is not None:
                    exact.gradients[name] = exact.gradients.get(name, 0) + factor * weight * gradient
    # Where another layer takes a blob too, the blob's gradient has another part, which is not known here.
    for layer in layers:
        if not layer.top or layer.top[0] not in exact.losses:
            for name in layer.bottom:
                exact.gradients.pop(name, None)
    return exact


def _row(what, blob, factor, a, b, exact):
    """One comparison, a dict for JSON.

    ``absolute`` is the largest absolute difference of the two arrays; ``relative`` is that divided by the largest
    magnitude in either. ``float64_a`` and ``float64_b`` are the relative differences from `exact`, None where that is
    None. ``errors`` is the histogram over BIN_EDGES of the relative errors that are not 0.
    """
    absolute, relative, errors = _difference(a, b)
    return {
        "what": what,
        "blob": blob,
        "loss_weight": factor,
        "absolute": absolute,
        "relative": relative,
        "float64_a": None if exact is None else _difference(a, exact)[1],
        "float64_b": None if exact is None else _difference(b, exact)[1],
        "errors": errors,
    }


def _difference(a, b):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
        relative = error / (max(np.abs(a).max(), np.abs(b).max()) or 1)
    clipped = np.clip(np.nan_to_num(relative[relative != 0], nan=np.inf), BIN_EDGES[0], BIN_EDGES[-1])
    return float(error.max()), float(relative.max()), np.histogram(clipped, BIN_EDGES)[0].tolist()


def _times(loaded, settings):
    """Medians of interleaved runs: for each net a dict with the milliseconds of forward and backward."""
    times = [{"forward": [], "backward": []} for _ in loaded]
    for _ in range(settings.repeat):
        for net, seconds in zip(loaded, times):
            last = len(net.layers) - 1
            start = time.perf_counter()
            net._forward(0, last)
            middle = time.perf_counter()
            build.backward(net)
            if settings.device == "gpu":
                _wait_for_gpu(net)
            seconds["forward"].append(middle - start)
            seconds["backward"].append(time.perf_counter() - middle)
    return [{kind: 1000 * statistics.median(values) for kind, values in seconds.items()} for seconds in times]


def _wait_for_gpu(net):
    """Reads the smallest gradient of an input: its copy to the host waits for all that was started before."""
    if net.inputs:
        _ = min((net.blobs[name] for name in net.inputs), key=lambda blob: blob.count).diff


def worst(rows, key):
    """The largest value of a key over rows; NaN if one is NaN, None where no row has one."""
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.max(values)) if values else None


def shown(value):
    """A difference as the tables show it."""
    return "–" if value is None else "0" if value == 0 else f"{value:.0e}"


def _print(result):
    show = shown
    report.print_table(
        f"A {result['a']}\nB {result['b']}",
        ["", "loss weight ×", "absolute", "relative", "A to float64", "B to float64"],
        [
            [
                f"{row['what']} {row['blob']}",
                f"{row['loss_weight']:g}",
                *(show(row[key]) for key in ("absolute", "relative", "float64_a", "float64_b")),
            ]
            for row in result["rows"]
        ],
    )
    for kind in ("forward", "backward"):
        a, b = (result["times_ms"][net][kind] for net in "ab")
        print(f"{kind}: A {a:.3g} ms, B {b:.3g} ms")
    largest = functools.reduce(_larger, result["rows"])
    verdict = "within" if result["within_tolerance"] else "NOT within"
    print(
        f"{verdict} {result['tolerance']:g}: the largest relative difference is {largest['relative']:.1e} "
        f"({largest['what']} {largest['blob']}, loss weight × {largest['loss_weight']:g})"
    )


def _larger(a, b):
    return a if not b["relative"] > a["relative"] and not np.isnan(b["relative"]) else b

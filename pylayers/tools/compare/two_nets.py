"""`pylayers compare`: compares two nets with the same inputs and the same loss tops.

Both run forward and backward on the same inputs. Layers that have the same name, and parameters of the same shapes, get
the same parameters. Each loss weight is multiplied by several factors in turn. Every loss is compared, the gradient of
every blob that comes into the net from outside, and the gradient of every parameter that both nets have.
"""

import functools
import statistics
import time

import numpy as np
from google.protobuf import text_format

from pylayers.caffe_nets import build, child, read
from pylayers.caffe_nets.child_main import at
from pylayers.caffe_nets.text import quoted
from pylayers.errors import UserError
from pylayers.tools import device, report
from pylayers.tools.compare import passes

_COLUMNS = ("absolute", "relative", "float64_a", "float64_b")
# Edges of the error histograms, relative errors; what is smaller or larger counts in the first or last bin.
BIN_EDGES = 10.0 ** np.arange(-12, 1.5, 0.5)


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
    passes.one_pass(pair, settings, settings.loss_weights[0])


def compare(pair, settings):
    """Compares two nets.

    Args:
        pair: two NetParameters from `read.read`.
        settings: `Settings`.

    Returns:
        A dict for JSON: the settings; ``rows``, one for each blob and loss weight, see `_row`; ``notes``, lines on what
        was compared; ``times_ms``, the medians of both nets; ``within_tolerance``.

    Raises:
        UserError: the nets do not match each other or the data.
    """
    rows = []
    for factor in settings.loss_weights:
        both = passes.one_pass(pair, settings, factor)
        rows.extend(_rows(both, passes.references(pair, both, factor), factor))
    within = all(row["relative"] <= settings.tolerance for row in rows)  # NaN is not
    if not within:
        _check_steady(pair, both, settings)
    return {
        **settings._asdict(),
        "within_tolerance": within,
        "rows": rows,
        "notes": _notes(pair, both, settings),
        "times_ms": dict(zip("ab", _times(both.nets, settings))),
    }


def _rows(both, exact, factor):
    a, b = both.results
    for top in a.losses:
        yield _row("loss", top, factor, a.losses[top], b.losses[top], exact.losses.get(top))
    for blob in (name for name in a.gradients if name not in both.constants):
        found = [a.gradients[blob], b.gradients[blob], exact.gradients.get(blob)]
        if any(gradient is not None and gradient.any() for gradient in found):
            yield _row("gradient", blob, factor, *found)
    for layer in a.parameters:
        found = list(zip(a.parameters[layer], b.parameters[layer]))
        # A bias that a BatchNorm takes out again has a gradient of 0, of which only the rounding is left. So the
        # largest gradient of the layer is the measure.
        scale = max(np.abs(gradient).max() for pair in found for gradient in pair)
        for index, (one, other) in enumerate(found):
            if scale and (one.any() or other.any()):
                yield _row("parameter", f"{layer}[{index}]", factor, one, other, None, scale)


def _check_steady(pair, both, settings):
    """Raises UserError where one net draws at random what the other does not, so that a difference tells nothing."""
    layers = [passes.random_layers(param, settings.phase) for param in pair]
    kinds = [[layer.type for layer in found] for found in layers]
    if kinds[0] != kinds[1]:
        drawn = " and ".join(f"{_layers(found)} in {side}" for found, side in zip(layers, "AB") if found)
        raise UserError(
            f"the nets differ, but nothing is proven: in phase {settings.phase.upper()} {drawn} draw at random, and "
            "the other net does not draw the same; --phase test compares without"
        )
    unsteady = passes.first_unsteady(both, settings)
    if unsteady:
        side, name = unsteady
        raise UserError(
            f'the nets differ, but nothing is proven: the layer "{name}" of {"AB"[side]} gives other values each time, '
            "on the same bottoms and from the same seed"
        )


def _notes(pair, both, settings):
    """Lines on what was compared, and what was not."""
    notes = []
    unweighted = [read.unweighted_losses(param) for param in pair]
    for side, (mine, others) in zip("AB", (unweighted, unweighted[::-1])):
        if mine - others:
            notes.append(f"left out: {quoted(mine - others)} of {side}, a loss of weight 0 that the other lacks")
    if unweighted[0] & unweighted[1]:
        notes.append(f"the loss weight of {quoted(unweighted[0] & unweighted[1])} is 0: only the values were compared")
    constant = [name for name in both.constants if any(result.gradients[name].any() for result in both.results)]
    if constant:
        notes.append(f"left out: the gradient of {quoted(constant)}, a constant of a loss in one of the nets")
    if both.read:
        notes.append(f"both nets got what A read or drew: {quoted(both.read)}")
    drawn = passes.random_layers(pair[0], settings.phase)
    if drawn:
        notes.append(f"drew the same in both nets: {_layers(drawn)}")
    return notes


def _layers(layers):
    return ", ".join(f'{layer.type} "{layer.name}"' for layer in layers)


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
    with report.named_errors(path):
        figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)


def _row(what, blob, factor, a, b, exact, scale=None):
    """One comparison, a dict for JSON.

    ``absolute`` is the largest absolute difference of the two arrays; ``relative`` is that divided by `scale`, or by
    the largest magnitude in either. ``float64_a`` and ``float64_b`` are the relative differences from `exact`, None
    where that is None. ``errors`` is the histogram over BIN_EDGES of the relative errors that are not 0.
    """
    absolute, relative, errors = _difference(a, b, scale)
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


def _difference(a, b, scale=None):
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(a - b)
        relative = error / (scale or max(np.abs(a).max(), np.abs(b).max()) or 1)
    clipped = np.clip(np.nan_to_num(relative[relative != 0], nan=np.inf), BIN_EDGES[0], BIN_EDGES[-1])
    return float(error.max()), float(relative.max()), np.histogram(clipped, BIN_EDGES)[0].tolist()


def _times(loaded, settings):
    """Medians of interleaved runs: for each net a dict with the milliseconds of forward and backward."""
    times = [{"forward": [], "backward": []} for _ in loaded]
    for _ in range(settings.repeat):
        for net, seconds in zip(loaded, times):
            last = len(net.layers) - 1
            if settings.device == "gpu":
                device.wait()
            start = time.perf_counter()
            net._forward(0, last)
            middle = time.perf_counter()
            build.backward(net)
            if settings.device == "gpu":
                device.wait()
            seconds["forward"].append(middle - start)
            seconds["backward"].append(time.perf_counter() - middle)
    return [{kind: 1000 * statistics.median(values) for kind, values in seconds.items()} for seconds in times]


def worst(rows, key):
    """The largest value of a key over rows; NaN if one is NaN, None where no row has one."""
    values = [row[key] for row in rows if row[key] is not None]
    return float(np.max(values)) if values else None


def shown(value):
    """A difference as the tables show it."""
    return "–" if value is None else "0" if value == 0 else f"{value:.0e}"


def _print(result):
    report.print_table(
        f"A {result['a']}\nB {result['b']}",
        ["", "loss weight ×", "absolute", "relative", "A to float64", "B to float64"],
        _table(result["rows"], result["tolerance"]),
    )
    for note in result["notes"]:
        print(note)
    for kind in ("forward", "backward"):
        a, b = (result["times_ms"][net][kind] for net in "ab")
        print(f"{kind}: A {a:.3g} ms, B {b:.3g} ms")
    largest = functools.reduce(_larger, result["rows"])
    verdict = "within" if result["within_tolerance"] else "NOT within"
    print(
        f"{verdict} {result['tolerance']:g}: the largest relative difference is {largest['relative']:.1e} "
        f"({largest['what']} {largest['blob']}, loss weight × {largest['loss_weight']:g})"
    )


def _table(rows, tolerance):
    """The rows of the table. What the loss weight makes no difference to is one row, of the largest numbers."""
    groups = {}
    for row in rows:
        groups.setdefault((row["what"], row["blob"]), []).append(row)
    table = []
    for (what, blob), group in groups.items():
        cells = [[shown(row[key]) for key in _COLUMNS] for row in group]
        if len(group) > 1 and all(row["relative"] <= tolerance for row in group):
            cells = [[shown(worst(group, key)) for key in _COLUMNS]]
        one = all(each == cells[0] for each in cells)
        factors = ["all"] if one and len(group) > 1 else [f"{row['loss_weight']:g}" for row in group]
        table.extend([f"{what} {blob}", factor, *each] for factor, each in zip(factors, cells))
    return table


def _larger(a, b):
    return a if not b["relative"] > a["relative"] and not np.isnan(b["relative"]) else b

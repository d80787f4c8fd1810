"""`pylayers bench`: what each loss layer costs, alone, beside its built-in twin in the same process.

Only the layers of the loss are timed, forward and backward in turns. pycaffe calls them, which adds a fraction of a
microsecond to both sides. Only pred, or scores, gets a gradient, as in training. The two sides take turns, so that
whatever else the machine does falls on both.

Where PyTorch is installed, it is timed after them: its threads go on spinning for a while after each call, as
OpenBLAS's do after Caffe's. For comparison the Python layer is timed once more in the same way, while nothing else runs
("alone").

The bytes that must move, at 4 bytes an element, are those of each blob that a formula needs, read once, and of each
result, written once. Euclidean and channel sum: forward reads pred and target; backward writes one gradient, and reads
both, or of the channel sum one residual for each sum. Softmax and the other losses over labels: forward reads the
scores and the labels; backward reads both and writes the scores' gradient. These bytes, divided by
the bandwidth of a plain copy, give the shortest time that memory allows. A blob that fits in the cache can take less.
"""

import functools
import math
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pylayers.caffe_nets import build, read
from pylayers.caffe_nets.labels import draw, find_labels
from pylayers.runtime.progress import progress_bar
from pylayers.runtime.tiles import thread_count
from pylayers.tools import device, report
from pylayers.tools.bench import pytorch
from pylayers.tools.twins import PAIRS, net_text

CASES = [case for pair in PAIRS.values() for case in pair.timed]
# The mean of the ratios is over the losses that a single built-in layer computes. It leaves out small blobs, where a
# ratio shows nothing but Python's own microseconds.
MEAN_PAIRS = ("euclidean", "softmax")
MEAN_ELEMENTS = 100_000
CALLS_SECONDS = 0.004  # a timing is the mean of as many calls as fill this time
COPY_BYTES = 2**27
KINDS = ("forward", "backward")


def run(options):
    """Runs the command on the CPU; `pylayers.tools.bench.run` has the arguments, the result and the errors."""
    device.use("cpu")
    cases = [case for case in CASES if not options.layer or case.pair in options.layer]
    with report.result_files(options) as (json_file, plot_file):
        result = bench(cases, options.repeat)
        _print(result)
        report.write_json(json_file, result)
        if plot_file:
            plot(plot_file, result["rows"])
    return 0


def bench(cases, repeat):
    """Times cases.

    Args:
        cases: a list of `Case`.
        repeat: the number of rounds; in each, every side of a case has its turn.

    Returns:
        A dict for JSON: ``rows``, one for each case, see `_row`; ``geometric_mean``, of the ratios of the rows
        that count in it, or None; ``copy_gb_per_s``; ``torch``, its version or None; ``machine``.
    """
    torch = pytorch.import_torch(thread_count())
    bandwidth = copy_bandwidth()
    rows = []
    with progress_bar("timing", len(cases)) as advance:
        for case in cases:
            rows.append(_row(case, time_case(case, repeat, torch), bandwidth))
            advance()
    counted = [row["ratio"] for row in rows if row["in_mean"]]
    return {
        "rows": rows,
        "repeat": repeat,
        "geometric_mean": math.exp(np.mean(np.log(counted))) if counted else None,
        "copy_gb_per_s": bandwidth / 1e9,
        "torch": torch and torch.__version__,
        "machine": report.machine(),
    }


def copy_bandwidth():
    """Bytes read and written per second by NumPy copies of a large array, on as many threads as the layers use."""
    threads = thread_count()
    source = np.ones((threads, COPY_BYTES // threads), np.uint8)
    target = np.empty_like(source)
    with ThreadPoolExecutor(threads) as pool:

        def copy():
            list(pool.map(np.copyto, target, source))

        copy()  # the pages of `target` are made here
        return 2 * source.size / min(_seconds({"copy": copy}, 1)["copy"] for _ in range(10))


def time_case(case, repeat, torch=None):
    """Times the sides of a case in turns.

    Args:
        case: a `Case`.
        repeat: the number of rounds; in each, every side has its turn.
        torch: the module of PyTorch, or None.

    Returns:
        A dict from side to times. The sides are "python", "builtin" where Caffe's layers compute the loss, and where
        PyTorch is given and has it, "torch", and "alone" for the Python layer once more. The times are a dict from
        "forward" and "backward" ("both" for PyTorch) to a list with the seconds of one call for each round.
    """
    calls = caffe_calls(case)
    times = _rounds(calls, repeat)
    call = torch and pytorch.call(torch, case)
    if call:
        times.update(_rounds({"alone": calls["python"]}, repeat))
        times.update(_rounds({"torch": {"both": call}}, repeat))
    return times


def _rounds(sides, repeat):
    """Times functions, a dict from side and kind, in `repeat` rounds; in each, every side has its turn."""
    numbers = {}
    for side, calls in sides.items():
        _seconds(calls, 1)  # a first call, as it allocates or compiles what the later ones use
        numbers[side] = max(1, round(CALLS_SECONDS / sum(_seconds(calls, 1).values())))
    times = {side: {kind: [] for kind in calls} for side, calls in sides.items()}
    for _ in range(repeat):
        for side, calls in sides.items():
            for kind, seconds in _seconds(calls, numbers[side]).items():
                times[side][kind].append(seconds)
    return times


def caffe_calls(case):
    """The functions to time, a dict from side and kind; each runs the layers of the loss alone."""
    with tempfile.TemporaryDirectory() as folder:
        texts = net_text(case, Path(folder), learnt=True)
        loaded = [build.load(text) for text in texts if text is not None]
    labels = find_labels(read.parse(texts[0], "test").layer, loaded[0])
    calls = {}
    for side, net in zip(("python", "builtin"), loaded):
        random = np.random.default_rng(1)
        for name in net.inputs:
            shape = tuple(net.blobs[name].shape)
            values = draw(random, shape, labels[name]) if name in labels else _normal(random, shape)
            net.blobs[name].data[...] = values
        net.forward()
        kinds = [layer.type for layer in net.layers]
        first = next(index for index, kind in enumerate(kinds) if kind not in ("Input", "Scale"))
        last = len(kinds) - 1
        calls[side] = {
            "forward": functools.partial(net._forward, first, last),
            "backward": functools.partial(net._backward, last, first),
        }
    return calls


def _normal(random, shape):
    return random.standard_normal(shape, dtype=np.float32)


def _seconds(calls, number):
    """The mean seconds of each of a dict's functions, called one after the other as in training, `number` times."""
    total = dict.fromkeys(calls, 0.0)
    for _ in range(number):
        for kind, call in calls.items():
            start = time.perf_counter()
            call()
            total[kind] += time.perf_counter() - start
    return {kind: seconds / number for kind, seconds in total.items()}


def bytes_moved(case):
    """The bytes that forward and backward must move, two numbers, counted as the docstring of this module says."""
    with tempfile.TemporaryDirectory() as folder:
        bottoms = PAIRS[case.pair].build(case, Path(folder)).bottoms
    first = 4 * math.prod(case.shape)
    moved = sum(4 * math.prod(shape) for shape in bottoms.values())
    # Of the channel sums backward needs the residuals alone, one for each sum.
    sums = {"channel-sum": math.prod(case.shape[2:]), "channel-sum-all": 1}.get(case.pair)
    return moved, first + (moved if sums is None else 4 * case.shape[0] * sums)


def _row(case, times, bandwidth):
    """One case, a dict for JSON; times in microseconds.

    ``total_us`` is the sum of the medians of forward and backward, for each side. ``overhead_us`` is that of the Python
    layer less that of the twin; ``ratio`` is the first divided by the second; both are None without a twin.
    ``roofline`` is the time that the bytes would take at the bandwidth of a copy, as a share of the Python layer's
    time.
    """
    sides = {side: {kind: _quartiles(values) for kind, values in kinds.items()} for side, kinds in times.items()}
    total = {side: sum(kind["median_us"] for kind in kinds.values()) for side, kinds in sides.items()}
    moved = bytes_moved(case)
    rate = sum(moved) / total["python"] * 1e6
    return {
        "pair": case.pair,
        "layer": PAIRS[case.pair].layer,
        "twin": PAIRS[case.pair].builtin,
        "shape": list(case.shape),
        **sides,
        "total_us": total,
        "overhead_us": total["python"] - total["builtin"] if "builtin" in total else None,
        "ratio": total["python"] / total["builtin"] if "builtin" in total else None,
        "bytes": dict(zip(KINDS, moved)),
        "gb_per_s": rate / 1e9,
        "roofline": rate / bandwidth,
        "in_mean": case.pair in MEAN_PAIRS and math.prod(case.shape) >= MEAN_ELEMENTS,
    }


def _quartiles(seconds):
    low, median, high = np.percentile(np.multiply(seconds, 1e6), [25, 50, 75])
    return {"median_us": float(median), "lower_quartile_us": float(low), "upper_quartile_us": float(high)}


def _print(result):
    sides = {"alone": "alone", "torch": "PyTorch"} if result["torch"] else {}
    columns = ["layer", "shape", "forward", "Caffe", "backward", "Caffe"]
    columns += ["spread", "overhead", "ratio", "GB/s", "of copy", *sides.values()]
    rows = [_printed(row, sides) for row in result["rows"]]
    report.print_table("Each layer alone, µs (medians)", columns, rows, left=2)
    machine = result["machine"]
    print(
        f"{machine['cpu']}, {machine['threads']} of {machine['cores']} cores; a copy moves "
        f"{result['copy_gb_per_s']:.1f} GB/s; spread: half the distance of the quartiles, the worst of the four\n"
        "overhead, ratio: Python's forward + backward, less and divided by Caffe's; of copy: GB/s beside a copy's"
    )
    if sides:
        print("alone, PyTorch: forward + backward where Caffe's layer does not run in between")
    else:
        print("PyTorch is not installed: no column for it")
    if result["geometric_mean"]:
        number = sum(row["in_mean"] for row in result["rows"])
        print(
            f"geometric mean of {number} ratios, Euclidean and softmax from {MEAN_ELEMENTS:,} elements on: "
            f"{result['geometric_mean']:.2f}"
        )


def _printed(row, sides):
    """A row of the table."""
    return [
        row["layer"],
        "×".join(map(str, row["shape"])),
        *(_microseconds(row, side, kind) for kind in KINDS for side in ("python", "builtin")),
        _relative_quartiles(row),
        _shown(row["overhead_us"]),
        f"{row['ratio']:.2f}" if row["ratio"] else "–",
        f"{row['gb_per_s']:.1f}",
        f"{row['roofline']:.0%}",
        *(_shown(row["total_us"].get(side)) for side in sides),
    ]


def _microseconds(row, side, kind):
    return _shown(row[side][kind]["median_us"] if side in row else None)


def _shown(value):
    return "–" if value is None else f"{value:.1f}" if abs(value) < 100 else f"{value:,.0f}"


def _relative_quartiles(row):
    """Half the distance between the quartiles, as a share of the median; the largest of the four timings."""
    timings = [row[side][kind] for side in ("python", "builtin") if side in row for kind in KINDS]
    spreads = [(each["upper_quartile_us"] - each["lower_quartile_us"]) / (2 * each["median_us"]) for each in timings]
    return f"±{max(spreads):.0%}"


def plot(path, rows):
    """Draws the times of each case, and beside them the ratio to Caffe."""
    pyplot = report.pyplot()
    figure, (left, right) = pyplot.subplots(
        1, 2, figsize=(11, 0.32 * len(rows) + 1.5), sharey=True, layout="constrained"
    )
    position = np.arange(len(rows))
    for offset, side, colour in (
        (0, "python", "tab:orange"),
        (0.27, "builtin", "tab:gray"),
        (0.54, "torch", "tab:blue"),
    ):
        found = [(index, row["total_us"][side]) for index, row in enumerate(rows) if side in row["total_us"]]
        if found:
            index, times = zip(*found)
            title = {"python": "Python layer", "builtin": "Caffe's own", "torch": "PyTorch"}[side]
            left.barh(np.add(index, offset), times, 0.27, label=title, color=colour)
    left.set(xscale="log", xlabel="µs, forward + backward")
    left.set_yticks(position + 0.27, [f"{row['layer']} {'×'.join(map(str, row['shape']))}" for row in rows])
    left.invert_yaxis()
    left.legend(fontsize="x-small")
    right.barh(position + 0.27, [row["ratio"] or np.nan for row in rows], 0.6, color="tab:orange")
    right.axvline(1, color="black", linewidth=0.7)
    right.set(xscale="log", xlabel="ratio to Caffe's own")
    with report.named_errors(path):
        figure.savefig(path, format="png", dpi=120)
    pyplot.close(figure)

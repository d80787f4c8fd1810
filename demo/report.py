"""The demo's table and picture."""

import matplotlib
import numpy as np

from pylayers.tools import report

matplotlib.use("Agg")
from matplotlib import pyplot as plt


def largest_difference(python, builtin):
    """The largest relative difference between two runs' losses at the same iteration; NaN if one is NaN."""
    return float(np.max(np.abs(python.losses - builtin.losses) / np.abs(builtin.losses)))


def worst_difference(pairs):
    """The largest of the pairs' largest differences; NaN if one is NaN."""
    return float(np.max([largest_difference(*pair) for pair in pairs.values()]))


def print_table(pairs):
    """Prints two rows for each pair of runs, a dict from title to (Python, built-in)."""
    rows = []
    for title, pair in pairs.items():
        difference = f"{largest_difference(*pair):.0e}"
        for kind, run in zip(("Python", "Caffe"), pair):
            scores = ("–" if np.isnan(score) else f"{score:.3f}" for score in (run.accuracy, run.rare_recall))
            rows.append([title, kind, f"{run.losses[-1]:.6g}", difference, *scores, f"{1000 * run.step:.2f}"])
            title = difference = ""
    report.print_table(
        "Each net trained twice from the same seed",
        ["net", "loss by", "final loss", "diff.", "accuracy", "rare recall", "ms/step"],
        rows,
        caption="diff.: largest relative difference between the two losses along the way",
        left=2,
    )


def plot(pairs, path):
    """Draws the loss curves of each pair over each other."""
    figure, axes = plt.subplots(1, len(pairs), figsize=(4 * len(pairs), 3.2), layout="constrained")
    for axis, (title, (python, builtin)) in zip(np.atleast_1d(axes), pairs.items()):
        axis.plot(python.losses, color="tab:orange", linewidth=3, label="Python layer")
        axis.plot(builtin.losses, color="black", linewidth=0.7, label="Caffe's own")
        axis.set(title=title, xlabel="iteration", yscale="log")
    np.atleast_1d(axes)[0].set_ylabel("training loss")
    np.atleast_1d(axes)[0].legend()
    with report.whole_file(path) as unfinished, report.named_errors(unfinished):
        figure.savefig(unfinished, dpi=120, format="png")
    plt.close(figure)
    print(f"loss curves: {path}")

"""The demo's tables and pictures."""

import matplotlib
import numpy as np
import scores
import segmentation_data

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
            found = ("–" if np.isnan(score) else f"{score:.3f}" for score in (run.accuracy, run.rare_recall))
            rows.append([title, kind, f"{run.losses[-1]:.6g}", difference, *found, f"{1000 * run.step:.2f}"])
            title = difference = ""
    report.print_table(
        "Each net trained twice from the same seed",
        ["net", "loss by", "final loss", "diff.", "accuracy", "rare recall", "ms/step"],
        rows,
        caption="diff.: largest relative difference between the two losses along the way",
        left=2,
    )


def print_classes(runs):
    """Prints recall and IoU of each class of the segmentation net for each run, a dict from title to run."""
    rows = []
    for index, name in enumerate(segmentation_data.CLASSES):
        for title, run in runs.items():
            matrix = run.test.confusion
            share = matrix[index].sum() / matrix.sum()
            found = (f"{measure(matrix)[index]:.3f}" for measure in (scores.recall, scores.iou))
            rows.append([name, title, f"{share:.1%}" if name else "", *found])
            name = ""
    print()
    report.print_table(
        "Each class of the segmentation net, on images that it was not trained with",
        ["class", "loss by", "pixels", "recall", "IoU"],
        rows,
        caption="pixels: the class's share; IoU: intersection over union",
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


def plot_labels(runs, path, count=6):
    """Draws test images that show the rare class, their labels, and what each run finds; ignored labels are grey."""
    test = next(iter(runs.values())).test
    shown = np.flatnonzero((test.label == segmentation_data.RARE).any(axis=(1, 2)))[:count]
    rows = {"image": (test.image + 0.5).clip(0, 1).transpose(0, 2, 3, 1), "truth": _colours(test.label)}
    rows.update({title: _colours(run.test.found) for title, run in runs.items()})
    figure, axes = plt.subplots(len(rows), count, figsize=(1.3 * count, 1.3 * len(rows)), layout="constrained")
    for line, (title, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(title)
        for axis, index in zip(line, shown):
            axis.imshow(pictures[index])
        for axis in line:
            axis.set(xticks=[], yticks=[])
    with report.whole_file(path) as unfinished, report.named_errors(unfinished):
        figure.savefig(unfinished, dpi=120, format="png")
    plt.close(figure)
    print(f"images, labels and what the nets find: {path}")


def _colours(label):
    """A label map as a picture: black, orange and violet for the classes, grey for the label to ignore."""
    colours = np.full((segmentation_data.IGNORE + 1, 3), 170, np.uint8)
    colours[: len(segmentation_data.CLASSES)] = (0, 0, 0), (255, 170, 50), (170, 90, 255)
    return colours[label.astype(int)]

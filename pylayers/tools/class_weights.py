"""`pylayers class-weights`: median frequency weights for a loss's classes, printed as a ``param_str``."""

import json
import sys

from pylayers.errors import UserError
from pylayers.tools import arguments, report

HELP = "median frequency weights for a loss's classes"
EXAMPLE = """\
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
DIGITS = 6  # of the printed weights: nearly as many as float32 has


def add_arguments(parser):
    """The command's arguments."""
    parser.add_argument("source", metavar="SOURCE", help="the labels that the net is trained on, see below")
    # Not the largest label plus one: that would miss classes that do not occur here, and take 255 for a class.
    parser.add_argument(
        "--classes",
        type=arguments.classes,
        required=True,
        metavar="N",
        help="how many, as many as the net's scores have",
    )
    parser.add_argument("--ignore-label", type=arguments.label, metavar="N", help="the label of what does not count")
    parser.add_argument("--json", metavar="FILE", help="write the result here")


def run(options):
    """Runs the command.

    Args:
        options: the parsed arguments, as `add_arguments` declares them.

    Returns:
        The exit status, 0.

    Raises:
        UserError: the source cannot be read, holds other than labels, or the result cannot be written.
    """
    from pylayers.class_weights import count

    with report.whole_file(options.json) as json_file:
        try:
            counts = count(options.source, options.classes, options.ignore_label)
        except (TypeError, ValueError) as error:
            raise UserError(str(error)) from None
        if counts.absent():
            print(f"pylayers {options.command}: {counts.absent_text()}", file=sys.stderr)
        weights = counts.weights()
        _print(options.source, counts, weights)
        report.write_json(
            json_file,
            {
                "source": options.source,
                "classes": counts.classes,
                "ignore_label": counts.ignore_label,
                "class_weights": weights.tolist(),
                "mean_weight": counts.mean_weight(),
                "frequencies": counts.frequencies().tolist(),
                "pixels": counts.pixels.tolist(),
                "images": counts.images.tolist(),
            },
        )
    return 0


def _print(source, counts, weights):
    rounded = [float(f"{weight:.{DIGITS}g}") for weight in weights]
    # With one label an item, a class has as many pixels as images.
    columns = [counts.pixels] if counts.single else [counts.pixels, counts.images]
    report.print_table(
        f"Median frequency weights of {source}",
        ("class", "labels", "weight") if counts.single else ("class", "pixels", "images", "weight"),
        [
            (str(index), *(str(column[index]) for column in columns), f"{weight:g}")
            for index, weight in enumerate(rounded)
        ],
        left=0,
    )
    print(_effect_of_valid(counts.mean_weight()))
    options = {"class_weights": rounded, "normalization": "WEIGHT_SUM"}
    if counts.ignore_label is not None:
        options["ignore_label"] = counts.ignore_label
    print("for WeightedSoftmaxLossLayer, or FocalLossLayer:")
    print(f"param_str: '{json.dumps(options)}'")  # not by rich, which would break the line


def _effect_of_valid(mean):
    """What the layer's default normalization would do to the learning rate, in words; `mean` is the mean weight."""
    if f"{mean:.2g}" == "1":
        return 'The mean weight of these labels is 1, so that "VALID", the default, would do as "WEIGHT_SUM" does.'
    return (
        f'The mean weight of these labels is {mean:.2g}. "VALID", the default, would make the loss and its gradient\n'
        f'{mean:.2g} times as large, as base_lr × {mean:.2g} does. "WEIGHT_SUM" leaves the learning rate as it is.'
    )

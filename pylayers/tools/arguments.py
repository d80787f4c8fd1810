"""The kinds of arguments that the commands take: each a function from text to value, with one clear error."""

import argparse
import math
import re
import sys

from pylayers.params import Integer


class Parser(argparse.ArgumentParser):
    """A parser that reports a mistake in one line, without the usage before it."""

    def error(self, message):
        """Prints the message and ends with status 2."""
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")

    def parse_known_args(self, args=None, namespace=None):
        """As argparse does; but what a command does not know is that command's mistake, with that command's name."""
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest

    def _print_message(self, message, file=None):
        """Prints, and raises where that fails, as on a full disk; argparse's own passes over it."""
        print(message, end="", file=file or sys.stderr)


def add_outputs(parser):
    """Adds ``--json`` and ``--plot``."""
    parser.add_argument("--json", metavar="FILE", help="write the result here")
    parser.add_argument("--plot", type=png, metavar="FILE.png", help="draw the result here")


def add_device(parser):
    """Adds ``--device``."""
    parser.add_argument("--device", choices=("cpu", "gpu"), default="cpu", help="default: cpu")


def add_phase(parser):
    """Adds ``--phase``."""
    parser.add_argument("--phase", choices=("test", "train"), default="test", help="default: test")


def png(text):
    """The name of a PNG file."""
    if not text.lower().endswith(".png"):
        raise argparse.ArgumentTypeError(f"must end in .png, found {text!r}")
    return text


def picture(text):
    """The name of a PNG, SVG or PDF file."""
    if not text.lower().endswith((".png", ".svg", ".pdf")):
        raise argparse.ArgumentTypeError(f"must end in .png, .svg or .pdf, found {text!r}")
    return text


def gpus(text):
    """GPU numbers as `caffe train --gpu` takes them."""
    if text != "all" and not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"must be GPU numbers, such as 0 or 0,1, or all, found {text!r}")
    return text


def shape(text):
    """A blob's shape, such as 4,10."""
    try:
        found = tuple(int(size) for size in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1:
        raise argparse.ArgumentTypeError(f"must be whole numbers from 1, such as 4,10, found {text!r}")
    return found


def labels(text, rule="must be a name and a number of classes, such as label:10"):
    """NAME:CLASSES as a pair: the text before the colon, which is a blob or the index of a bottom, and the number."""
    name, _, classes_text = text.rpartition(":")
    if not name or not classes_text.isdecimal() or not int(classes_text):
        raise argparse.ArgumentTypeError(f"{rule}, found {text!r}")
    return name, int(classes_text)


def labels_of_bottom(text):
    """INDEX:CLASSES as a pair of int: a bottom's index, and its number of classes."""
    rule = "must be a bottom's index and a number of classes, such as 1:10"
    index, count = labels(text, rule)
    if not index.isdecimal():
        raise argparse.ArgumentTypeError(f"{rule}, found {text!r}")
    return int(index), count


def range_of_bottom(text):
    """A bottom's index and the range of its values, such as 1:0,1; an int and two floats."""
    found = re.fullmatch(r"(\d+):([^,]+),([^,]+)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a bottom's index and two numbers, such as 1:0,1, found {text!r}")
    low, high = finite(found[2]), finite(found[3])
    if low >= high:
        raise argparse.ArgumentTypeError(f"must have the smaller number first, found {text!r}")
    return int(found[1]), low, high


def axis_of_bottom(text):
    """A bottom's index and one of its axes, 1 if not given, such as 0:1 or 0; two ints."""
    found = re.fullmatch(r"(\d+)(?::(-?\d+))?", text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be a bottom's index, and its axis or none, such as 0:1, found {text!r}")
    return int(found[1]), int(found[2] or 1)


def finite(text):
    """A finite number."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"must be a finite number, found {text!r}")
    return value


def above_zero(text):
    """A finite number above 0."""
    value = finite(text)
    if value <= 0:
        raise argparse.ArgumentTypeError(f"must be above 0, found {text!r}")
    return value


def tolerance(text):
    """A finite number from 0."""
    value = finite(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be negative, found {text!r}")
    return value


def _number(text):
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, found {text!r}") from None


def whole(text):
    """A whole number from 0 that Caffe's int holds."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"must be a whole number from 0 to 2147483647, found {text!r}")
    return int(text)


def positive(text):
    """A whole number from 1 that Caffe's int holds."""
    value = whole(text)
    if not value:
        raise argparse.ArgumentTypeError("must be at least 1, found 0")
    return value


def label(text):
    """A label that float32 can hold."""
    try:
        return Integer(None).check(int(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{Integer(None).rule}, found {text!r}") from None


def classes(text):
    """A number of classes."""
    value = positive(text)
    if value > Integer.LIMIT:
        raise argparse.ArgumentTypeError(f"must be at most {Integer.LIMIT}, found {text!r}")
    return value

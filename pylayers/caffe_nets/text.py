"""Prototxt text, handled without Caffe, which may be missing: read from files, made, and put into messages."""

from pathlib import Path

from pylayers.errors import UserError


def read_text(path):
    """The text of a prototxt file.

    Raises:
        UserError: it cannot be read, or is not text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text; give a prototxt file") from None


def quoted(names):
    """Names for an error message: sorted, in quotes, with commas between them."""
    return ", ".join(f'"{name}"' for name in sorted(names)) or "none"


def input_text(name, shape, learnt=False):
    """Prototxt text of a blob that comes into a net from outside.

    Caffe back-propagates only towards layers with parameters. So a blob that is to get a gradient passes a Scale layer
    whose one factor is 1. That changes no value.

    Args:
        name: the blob's name.
        shape: the blob's shape.
        learnt: whether the blob is to get a gradient. The net's input then has this name with "_data" after it.
    """
    source = f"{name}_data" if learnt else name
    dims = " ".join(f"dim: {size}" for size in shape)
    text = f'layer {{ name: "{source}" type: "Input" top: "{source}" input_param {{ shape {{ {dims} }} }} }}\n'
    if learnt:
        text += (
            f'layer {{ name: "{name}" type: "Scale" bottom: "{source}" top: "{name}" '
            "scale_param { axis: 0 num_axes: 0 filler { value: 1 } } }\n"
        )
    return text

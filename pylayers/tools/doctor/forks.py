"""`pylayers doctor`: what a file has that is a Caffe fork's, and what this Caffe has for it."""

import json
import math
import re

import pylayers
from pylayers.caffe_facts import CLASS_WEIGHT_FIELDS, FORK_FIELDS, FORK_LAYER_OPTIONS, FORK_LAYERS, FORK_OPTIONS
from pylayers.tools.doctor.finding import Finding, describe, nearest

describe(
    "The net as a whole",
    {
        "unknown-field": """
            What: a field, or a value of one, that Caffe 1.0 does not know; or a field that stands twice and may stand
            once.
            Why: Caffe refuses the whole file at the first one. They come from forks of Caffe, from newer or older
            versions, and from slips. Each is a finding of its own, and the rest is looked at as if it were not there.
            Write: what the finding gives, or nothing in its place; or use the fork.
        """
    },
)
_PLACES = {
    "NetParameter": "a net",
    "SolverParameter": "a solver",
    "LayerParameter": "a layer",
    "V1LayerParameter": "a layer of the format before 2014",
}


def unknown(foreign, path, layer):
    """A `foreign.Foreign` as a `Finding`, in the file `path` and the layer of that name, or None."""
    name, place, write = foreign.name, _PLACES.get(foreign.message.name, foreign.block), _NOTHING
    if foreign.why == "twice":
        found, write = f'"{name}" stands twice in {place}, and may stand once:', f"one {name}"
    elif foreign.why == "value" and foreign.message.fields_by_name[name].enum_type is None:
        found, write = f'"{name}" takes one number in {place}, found {foreign.value}:', f"{name}: and one number"
    elif foreign.why == "value":
        values = foreign.message.fields_by_name[name].enum_type.values_by_name
        near = nearest(foreign.value, values)
        found = f'Caffe 1.0 has no "{foreign.value}" for {name}{_forks(near)} and'
        write = f"{name}: {near}" if near else write
    else:
        near = _own_words(name, foreign.value) or _slip(name, foreign.message.fields_by_name)
        found = f'Caffe 1.0 has no "{name}" in {place}{_forks(near and name not in FORK_OPTIONS)} and'
        write = near or write
    found += " Caffe refuses the file" if found.endswith(":") else " refuses the file"
    return Finding("error", found, write, path, foreign.line, layer, rule="unknown-field")


def _forks(near):
    return "," if near else " (it is a fork's),"


_NOTHING = "no such line, or the fork of Caffe that has it"


def _own_words(field, value):
    """What says the same as a fork's field in this Caffe, or with the kit; None for nothing."""
    if field in FORK_FIELDS:
        return FORK_FIELDS[field]
    if field in FORK_OPTIONS:
        return _own_options(*FORK_OPTIONS[field], value)
    if field in CLASS_WEIGHT_FIELDS:
        return f"{python_layer('WeightedSoftmaxLossLayer')}, with class_weights in param_str"
    return None


def _own_options(layer, keys, value):
    """The param_str for a fork's block of options, and which of them the kit's layer has not."""
    given = dict(re.findall(r"(\w+) : (\S+)", value))
    options = {keys[key]: float(number) for key, number in given.items() if key in keys and _is_number(number)}
    others = ", ".join(key for key in given if keys.get(key) not in options)
    words = f"param_str: '{json.dumps(options)}' in the python_param of {layer}" if options else ""
    missing = f"{layer} has no {others}" if others else ""
    return "; ".join(filter(None, (words, missing))) or None


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def own_layer(kind):
    """The line that names the kit's own layer for a fork's type of layer; None where it has none."""
    name = kind if kind in pylayers.__all__ else FORK_LAYERS.get(kind)
    if name is None:
        return None
    hint = ' (with "activation": "SIGMOID" in param_str where each score has a label of its own)'
    return python_layer(name, FORK_LAYER_OPTIONS.get(kind)) + (hint if kind == "FocalLoss" else "")


def python_layer(name, param_str=None):
    """The line that names a layer of the kit."""
    more = f" param_str: '{param_str}'" if param_str else ""
    return f'type: "Python" python_param {{ module: "pylayers" layer: "{name}"{more} }}'


def _slip(name, names):
    """The name that another may be a slip for, a letter or two away; None for none."""
    bare = {each.removesuffix("_param"): each for each in names}
    near = nearest(name.removesuffix("_param"), bare, closeness=0.74)
    return bare[near] if near and abs(len(bare[near]) - len(name)) <= 1 else None

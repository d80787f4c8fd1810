"""What `pylayers doctor` finds, and the registry of its rules."""

import difflib
import functools
import inspect
from typing import Callable, NamedTuple, Optional


class Finding(NamedTuple):
    """One thing that is wrong, and what to do about it."""

    severity: str  # "error": it fails, or does not do what the file says; "warning": it may be meant
    found: str
    write: str  # the line to write instead, or the command to run; "" where `found` says enough
    file: Optional[str] = None
    line: Optional[int] = None
    layer: Optional[str] = None
    detail: str = ""  # a traceback
    rule: str = ""


class Rule(NamedTuple):
    """A rule. Its text says what it finds, why that is wrong, and what to write: docs/doctor.md is made of it."""

    topic: str
    text: str
    check: Optional[Callable] = None  # takes a `net.Net` and gives findings; None where doctor finds it in another way
    needs_shapes: bool = False


RULES = {}  # all rules, by name


def rule(topic, needs_shapes=False):
    """The decorator of a rule: a function that takes a `net.Net` and yields findings. Its name is the rule's.

    Args:
        topic: the section of docs/doctor.md that has the rule.
        needs_shapes: whether the rule needs the blobs' shapes, which are known only once the net has been built.
    """

    def decorate(function):
        name = function.__name__.replace("_", "-")

        @functools.wraps(function)
        def check(net):
            for finding in function(net):
                yield finding._replace(rule=name)

        RULES[name] = Rule(topic, inspect.cleandoc(function.__doc__), check, needs_shapes)
        return check

    return decorate


def describe(topic, texts):
    """Registers rules that are no functions, under a topic: `texts` is a dict from a rule's name to its text."""
    for name, text in texts.items():
        RULES[name] = Rule(topic, inspect.cleandoc(text))


def nearest(name, names, closeness=0.6):
    """Of `names` the one that `name` is most likely meant to be, upper and lower case alike; None for none."""
    folded = {each.casefold(): each for each in names}
    near = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=closeness)
    return folded[near[0]] if near else None

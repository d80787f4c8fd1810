"""param_str as strict JSON: every option declared with its kind, every error naming key, rule and value."""

from __future__ import annotations

import difflib
import json
import math
from types import SimpleNamespace
from typing import Any, Protocol


class Kind(Protocol):
    """A kind of option: its default, what a value must be, and how that is checked."""

    default: Any

    @property
    def rule(self) -> str:
        """What a value must be, for error messages."""

    def check(self, value: Any) -> Any:
        """Returns the value that the layer gets; raises TypeError or ValueError with `rule` where it is wrong."""


class Choice:
    """One of a few words. The first is the default, or None where another option decides."""

    def __init__(self, *words: str, has_default: bool = True):
        self.words = words
        self.default = words[0] if has_default else None

    def check(self, value: Any) -> str:
        """Returns `value` if it is one of the words.

        Raises:
            TypeError: it is not a string.
            ValueError: it is another string.
        """
        if not isinstance(value, str):
            raise TypeError(self.rule)
        if value not in self.words:
            raise ValueError(self.rule)
        return value

    @property
    def rule(self):
        """What a value must be, for error messages."""
        return "must be one of " + ", ".join(json.dumps(word) for word in self.words)


class Boolean:
    """JSON's true or false; 0, 1 and words are neither."""

    rule = "must be true or false"

    def __init__(self, default: Any):
        self.default = default

    def check(self, value: Any) -> bool:
        """Returns `value` if it is a bool.

        Raises:
            TypeError: it is anything else.
        """
        if not isinstance(value, bool):
            raise TypeError(self.rule)
        return value


class Integer:
    """A whole number that float32, Caffe's type of label, can tell from its neighbours; no decimal point."""

    LIMIT = 2**24

    def __init__(self, default: Any, minimum: int = -LIMIT, maximum: int = LIMIT):
        self.default = default
        self.minimum = minimum
        self.maximum = maximum

    def check(self, value: Any) -> int:
        """Returns `value` if it is an int.

        Raises:
            TypeError: it is anything else; true and false are no numbers.
            ValueError: it is out of range.
        """
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(self.rule)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(self.rule)
        return value

    @property
    def rule(self):
        """What a value must be, for error messages."""
        return f"must be a whole number from {self.minimum} to {self.maximum}"


class Number:
    """A finite number, within limits where they are given."""

    def __init__(
        self,
        default: float | None,
        minimum: float = -math.inf,
        maximum: float = math.inf,
        above: float = -math.inf,
    ):
        self.default = default
        self.minimum = minimum
        self.maximum = maximum
        self.above = above

    def check(self, value: Any) -> float:
        """Returns `value` as a float.

        Raises:
            TypeError: it is no number; true and false are none.
            ValueError: it is out of range.
        """
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            raise TypeError(self.rule)
        try:
            number = float(value)
        except OverflowError:  # an int of more than 308 digits
            raise ValueError(self.rule) from None
        if not (math.isfinite(number) and self.minimum <= number <= self.maximum and number > self.above):
            raise ValueError(self.rule)
        return number

    @property
    def rule(self):
        """What a value must be, for error messages."""
        limits = [
            f"{word} {limit:g}"
            for word, limit in (("above", self.above), ("at least", self.minimum), ("at most", self.maximum))
            if math.isfinite(limit)
        ]
        return "must be a finite number" + (", " + " and ".join(limits) if limits else "")


class Numbers:
    """A list of finite numbers, at least one; or, where `single` is True, also one number."""

    def __init__(self, default: Any, single: bool = False):
        self.default = default
        self.single = single

    def check(self, value: Any) -> list[float] | float:
        """Returns `value` as a list of floats; one number as a float, where that is allowed.

        Raises:
            TypeError: it is neither a list of numbers nor, where that is allowed, one number.
            ValueError: it is empty, or a number in it is too large for float64.
        """
        if self.single and not isinstance(value, list):
            return self.check([value])[0]
        if not isinstance(value, list) or any(
            not isinstance(item, (int, float)) or isinstance(item, bool) for item in value
        ):
            raise TypeError(self.rule)
        try:
            numbers = [float(item) for item in value]
        except OverflowError:
            raise ValueError(self.rule) from None
        if not numbers or not all(map(math.isfinite, numbers)):
            raise ValueError(self.rule)
        return numbers

    @property
    def rule(self):
        """What a value must be, for error messages."""
        return f"must be {'a finite number, or ' * self.single}a list of finite numbers, at least one"


def parse(text: str, options: dict[str, Kind]) -> SimpleNamespace:
    """Reads a layer's param_str.

    Args:
        text: the param_str; empty or blank means all defaults.
        options: what the layer takes, a dict from key to `Choice`, `Boolean`, `Integer`, `Number` or `Numbers`.

    Returns:
        A namespace with one attribute per option, given or default.

    Raises:
        ValueError: no JSON object, an unknown or repeated key, or a value out of range.
        TypeError: a value of the wrong kind.

    >>> options = {"axis": Integer(1), "normalization": Choice("VALID", "FULL")}
    >>> parse('{"axis": 2}', options)
    namespace(axis=2, normalization='VALID')
    >>> parse('{"axes": 2}', options)
    Traceback (most recent call last):
    ...
    ValueError: param_str has the unknown key "axes" (did you mean "axis"?); it takes "axis", "normalization"
    """
    given = _read_object(text) if text.strip() else {}
    values = {key: option.default for key, option in options.items()}
    for key, value in given.items():
        if key not in options:
            raise ValueError(_unknown_key(key, options))
        try:
            values[key] = options[key].check(value)
        except (TypeError, ValueError) as error:
            raise type(error)(f'param_str key "{key}" {error}, found {json.dumps(value)}') from None
    return SimpleNamespace(**values)


def _read_object(text):
    try:
        given = json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"param_str is not JSON ({error.msg} at character {error.pos + 1}), found {text!r}; "
            """write it as param_str: '{"key": "value"}', with double quotes inside"""
        ) from None
    except RecursionError:
        raise ValueError("param_str is nested too deeply; it takes one JSON object") from None
    if not isinstance(given, dict):
        raise ValueError(f'param_str must be a JSON object such as {{"key": "value"}}, found {text!r}')
    return given


def _unique_keys(pairs):
    keys = [key for key, _ in pairs]
    for key in keys:
        if keys.count(key) > 1:
            raise ValueError(f'param_str has the key "{key}" {keys.count(key)} times; give it once')
    return dict(pairs)


def _no_constant(name):
    raise ValueError(f"param_str holds {name}, which is not JSON; numbers must be finite")


def _unknown_key(key, options):
    near = difflib.get_close_matches(key, options, n=1)
    hint = f' (did you mean "{near[0]}"?)' if near else ""
    if key == "loss_weight":
        hint = " (loss_weight is a field of the layer: write it beside python_param)"
    known = ", ".join(f'"{name}"' for name in options) or "no keys"
    return f'param_str has the unknown key "{key}"{hint}; it takes {known}'

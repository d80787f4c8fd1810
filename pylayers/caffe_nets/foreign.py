"""What a prototxt text has and Caffe does not know: fields and values of Caffe's forks. They are found and cut out."""

from typing import Any, NamedTuple, Optional

from google.protobuf import text_format
from google.protobuf.descriptor import FieldDescriptor


class Foreign(NamedTuple):
    """A field that Caffe does not know, or knows and does not take so.

    Attributes:
        line: of the text, counted from 1.
        why: "field": there is no field of that name; "value": there is no value of that name; "twice": the field is
            there already, and may stand once.
        name: of the field.
        value: what stands for a value that is unknown; what stands after the name of a field that is unknown; else "".
        message: the descriptor of the message that the field stands in.
        block: the name of the field that holds that message, such as "loss_param"; "" at the top.
        layer: the line of the layer that it stands in, or None.
    """

    line: int
    why: str
    name: str
    value: str
    message: Any
    block: str
    layer: Optional[int]


class _Token(NamedTuple):
    text: str
    line: int
    start: int
    end: int


def cut(text, descriptor):
    """Cuts out of a prototxt text what its message does not know.

    Args:
        text: of the file.
        descriptor: of the message that it is, such as ``caffe_pb2.NetParameter.DESCRIPTOR``.

    Returns:
        The text with blanks in place of what was cut, so that lines stay where they are, and a list of `Foreign`.
        Where braces do not match: the text as it is, and no list.
    """
    walk = _Walk(_tokens(text))
    try:
        walk.message(descriptor, "", None, closer=None)
    except _MalformedError:
        return text, []
    for start, end in walk.spans:
        text = text[:start] + "".join("\n" if each == "\n" else " " for each in text[start:end]) + text[end:]
    return text, walk.found


def brace_mistake(text):
    """Where a brace is missing or too many.

    Returns:
        A line and what is wrong there; None where all braces match.
    """
    tokens, opened = _tokens(text), []
    for before, token in zip([_Token("", 1, 0, 0), *tokens], tokens):
        if token.text in ("{", "<"):
            layers = [each for each in opened if each.text in ("layer", "layers")]
            if before.text in ("layer", "layers") and layers:
                line = layers[-1].line
                return line, f"the layer that begins in line {line} lacks a }} before that of line {before.line}"
            opened.append(before._replace(line=token.line))
        elif token.text in ("}", ">"):
            if not opened:
                return token.line, "a } too many"
            opened.pop()
    if not opened:
        return None
    return opened[-1].line, f"the {{ of line {opened[-1].line} is never closed: a }} is missing"


def _tokens(text):
    lines, starts = text.split("\n"), [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    tokenizer, found = text_format.Tokenizer(lines), []
    while not tokenizer.AtEnd():
        place = tokenizer.ParseError("")
        start = starts[place.GetLine() - 1] + place.GetColumn() - 1
        found.append(_Token(tokenizer.token, place.GetLine(), start, start + len(tokenizer.token)))
        tokenizer.NextToken()
    return found


class _MalformedError(Exception):
    """The text is none of a message: protobuf's parser says why."""


class _Walk:
    """A walk over the tokens of a text, beside the descriptors of its messages."""

    def __init__(self, tokens):
        self.tokens, self.at = tokens, 0
        self.found, self.spans = [], []

    def peek(self):
        """The text of the next token, "" at the end."""
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def take(self):
        """The next token."""
        if self.at == len(self.tokens):
            raise _MalformedError
        self.at += 1
        return self.tokens[self.at - 1]

    def message(self, descriptor, block, layer, closer):
        """Walks over the fields of a message; `descriptor` is None in one that is cut already."""
        seen = set()
        while self.peek() != (closer or ""):
            name = self.take()
            if name.text in (";", ","):
                continue
            if not (name.text[0].isalpha() or name.text[0] == "_"):
                raise _MalformedError
            field = descriptor and descriptor.fields_by_name.get(name.text)
            why, value, mark = "", "", len(self.found)
            begin = self.at
            if descriptor and field is None:
                why = "field"
            elif field and not _is_repeated(field) and name.text in seen:
                why = "twice"
            is_layer = name.text in ("layer", "layers") and field and field.message_type
            unknown = self.value(None if why else field, name.line if is_layer else layer)
            if unknown and not why:
                why, value = "value", unknown
            elif why == "field":
                value = " ".join(token.text for token in self.tokens[begin : self.at])
            seen.add(name.text)
            if why:
                del self.found[mark:]  # what stands in it is cut with it
                self.found.append(Foreign(name.line, why, name.text, value, descriptor, block, layer))
                self.spans.append((name.start, self.tokens[self.at - 1].end))
        if closer:
            self.take()

    def value(self, field, layer):
        """Walks over the value of a field, None for one that is cut; returns a value that the field does not know."""
        if self.peek() == ":":
            self.take()
        if self.peek() != "[":
            return self.single(field, layer)
        self.take()
        unknown = "[...]" if field and not _is_repeated(field) else ""
        while self.peek() != "]":
            if self.peek() == ",":
                self.take()
            else:
                unknown = self.single(field, layer) or unknown
        self.take()
        return unknown

    def single(self, field, layer):
        """As `value`, of one that is no list."""
        token = self.take()
        if token.text in ("{", "<"):
            descriptor = field and field.message_type
            self.message(descriptor, field.name if field else "", layer, "}" if token.text == "{" else ">")
            return ""
        if token.text in ("}", ">", "]", ":"):
            raise _MalformedError
        if token.text[0] in "\"'":
            while self.peek()[:1] in ('"', "'"):
                self.take()
        return "" if field is None or _fits(token.text, field) else token.text


def _fits(text, field):
    """Whether the text of a value may be meant for the field."""
    is_word = text[0].isalpha()
    if field.enum_type:
        return not is_word or text in field.enum_type.values_by_name
    return not is_word or field.cpp_type not in _INTEGERS


_INTEGERS = [getattr(FieldDescriptor, f"CPPTYPE_{name}") for name in ("INT32", "INT64", "UINT32", "UINT64")]


def _is_repeated(field):
    """Whether a field may stand several times. Old protobuf says so by its label, which protobuf 7 no longer has."""
    if hasattr(field, "is_repeated"):
        return field.is_repeated
    return field.label == FieldDescriptor.LABEL_REPEATED

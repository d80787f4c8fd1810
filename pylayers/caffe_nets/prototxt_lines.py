"""The line of each field of a prototxt text. protobuf's parser keeps no lines, but its tokenizer knows them."""

import re

from google.protobuf import text_format


class Field:
    """A field of a prototxt text: its name, its line, counted from 1, and the fields in it."""

    def __init__(self, name, line):
        self.name, self.line, self.fields, self.opened = name, line, [], False

    def all(self, name):
        """The fields called `name` in this one, in the order of the text."""
        return [field for field in self.fields if field.name == name]

    def line_of(self, *path):
        """The line of a field inside this one.

        Args:
            *path: the names that lead to the field. Of several fields with one name the first is taken.

        Returns:
            The line; where the text lacks a name of the path, the line of the last field that is there.
        """
        field = self
        for name in path:
            if not field.all(name):
                break
            field = field.all(name)[0]
        return field.line


def fields_of(text):
    """A prototxt text as a tree of `Field`."""
    tokenizer = text_format.Tokenizer(text.splitlines())
    root = Field("", 1)
    path, last = [root], root
    while not tokenizer.AtEnd():
        token, line = tokenizer.token, tokenizer.ParseError("").GetLine()
        tokenizer.NextToken()
        if token in ("{", "<"):
            if last.opened:  # the next message of a list
                last = Field(last.name, line)
                path[-1].fields.append(last)
            last.opened = True
            path.append(last)
        elif token in ("}", ">") and len(path) > 1:
            last = path.pop()
        elif tokenizer.token in (":", "{", "<", "[") and re.match("[A-Za-z_]", token):
            last = Field(token, line)
            path[-1].fields.append(last)
    return root

"""docs/doctor.md, made of the texts of the rules: ``python -m pylayers.tools.doctor.page`` in the clone writes it."""

import re
from pathlib import Path

from pylayers.tools.doctor import check
from pylayers.tools.doctor.finding import RULES

__all__ = ["check", "text"]  # check registers the rules

_HEAD = """\
# What doctor finds

`pylayers doctor` looks at Caffe, and at the nets of a file, before Caffe ends with what is wrong in them. Each finding
names the file, the line and the layer, says what is wrong and what to write, and has the name of its rule in brackets.
[Troubleshooting](troubleshooting.md) says how to call it. These are the rules.

This page is made of the rules' own texts by `python -m pylayers.tools.doctor.page`.
"""


def text():
    """The page."""
    topics = {}
    for name, rule in RULES.items():
        topics.setdefault(rule.topic, []).append((name, rule))
    parts = [_HEAD]
    for topic in sorted(topics):
        parts.append(f"\n## {topic}\n")
        for name, rule in sorted(topics[topic]):
            parts.append(f"\n### {name}\n\n{_paragraphs(rule.text)}\n")
    return "".join(parts)


def _paragraphs(rule_text):
    """What, Why and Write of a rule as a list."""
    found = re.split(r"\s*\b(What|Why|Write): ", rule_text)[1:]
    items = [(kind, " ".join(words.split())) for kind, words in zip(found[::2], found[1::2])]
    return "\n".join(f"- **{kind}**: {words.replace('``', '`')}" for kind, words in items)


if __name__ == "__main__":
    Path("docs/doctor.md").write_text(text(), encoding="utf-8")

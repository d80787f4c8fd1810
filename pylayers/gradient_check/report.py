"""What a check finds, and how it says so."""

from collections.abc import Sequence
from typing import NamedTuple

# Stands in place of the worst element. Where it holds for every blob, nothing is proven.
ALL_ZERO = "where every derivative is 0"
NOTHING_PROVEN = "nothing is proven: every derivative is 0 for these values and this loss weight"


class BlobResult(NamedTuple):
    """What was found for one bottom or parameter blob."""

    blob: str
    checked: int  # number of elements, or of directions
    skipped: int  # number of elements within `kink_range` of `kink`
    worst: str  # the worst element or direction, with both derivatives
    error: float  # the difference between its two derivatives
    tolerance: float  # what that difference may be
    beside: int = 0  # number of elements compared on one side of a kink, or of directions without the elements at kinks
    unsure: str = ""  # why forward cannot tell whether backward is right
    cause: str = ""  # why backward is wrong, where that can be told

    @property
    def verdict(self):
        """One word: ok, WRONG or UNSURE."""
        if self.unsure:
            return "UNSURE"
        return "ok" if self.error <= self.tolerance else "WRONG"

    def __str__(self):
        kinks = f" ({self.beside} beside a kink)" if self.beside else ""
        kinks += f", {self.skipped} at a kink skipped" if self.skipped else ""
        text = f"{self.verdict:6} {self.blob}: {self.checked} checked{kinks}; "
        if self.unsure:
            text += f"{self.unsure}; "
        text += f"largest difference {self.error:.2g} (allowed {self.tolerance:.2g}) {self.worst}"
        return f"{text}\n       {self.cause}" if self.cause else text


class Report(NamedTuple):
    """All that was found: one result for each blob, and the rules of forward and backward that are broken."""

    results: list
    violations: list
    notes: Sequence = ()  # what is no mistake, such as prints

    @property
    def derivatives_agree(self):
        """True if forward shows that each derivative is right."""
        return all(result.verdict == "ok" for result in self.results)

    @property
    def nothing_proven(self):
        """True if every derivative is 0: so it is for any gradient that is a multiple of the right one."""
        return not self.violations and all(result.worst == ALL_ZERO for result in self.results)

    @property
    def passed(self):
        """True if each derivative is right, not all of them are 0, and no rule is broken."""
        return self.derivatives_agree and not self.violations and not self.nothing_proven

    def __str__(self):
        lines = [*map(str, self.results), *(f"WRONG  {violation}" for violation in self.violations)]
        if self.nothing_proven:
            lines.append(f"UNSURE {NOTHING_PROVEN}")
        return "\n".join([*lines, *(f"note   {note}" for note in self.notes)])

"""What a check finds, and how it says so."""

from typing import NamedTuple

# In place of the worst element. Where it is so of every blob, nothing is proven.
ALL_ZERO = "where every derivative is 0"


class BlobResult(NamedTuple):
    """What was found for one bottom or parameter blob."""

    blob: str
    checked: int  # elements, or directions
    skipped: int  # elements within `kink_range` of `kink`
    worst: str  # the worst element or direction, with both derivatives
    error: float  # its difference
    tolerance: float  # what that difference may be
    beside: int = 0  # elements compared to one side of a kink, or directions without the elements at kinks

    @property
    def verdict(self):
        """One word."""
        return "ok" if self.error <= self.tolerance else "WRONG"

    def __str__(self):
        kinks = f" ({self.beside} beside a kink)" if self.beside else ""
        kinks += f", {self.skipped} at a kink skipped" if self.skipped else ""
        return (
            f"{self.verdict:6} {self.blob}: {self.checked} checked{kinks}; largest difference {self.error:.2g} "
            f"(allowed {self.tolerance:.2g}) {self.worst}"
        )


class Report(NamedTuple):
    """All that was found: one result for each blob, and the rules of forward and backward that are broken."""

    results: list
    violations: list

    @property
    def derivatives_agree(self):
        """True if no derivative is off."""
        return all(result.verdict == "ok" for result in self.results)

    @property
    def passed(self):
        """True if no derivative is off and no rule is broken."""
        return self.derivatives_agree and not self.violations

    def __str__(self):
        return "\n".join([*map(str, self.results), *(f"WRONG  {violation}" for violation in self.violations)])

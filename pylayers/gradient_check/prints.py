"""What a layer prints while it is checked: thousands of times the same, which is to drown no report."""

import contextlib
import io

# Lines that are kept, to be shown where the layer raises an exception.
_KEPT = 20


class Prints(io.TextIOBase):
    """Stands in for stdout: counts lines, and keeps the first few."""

    def __init__(self):
        self.count, self.kept, self._line = 0, [], ""

    def write(self, text):
        """Takes what is printed."""
        *lines, self._line = (self._line + text).split("\n")
        self.count += len(lines)
        self.kept += lines[: _KEPT - len(self.kept)]
        return len(text)

    @property
    def notes(self):
        """One sentence of what was printed, or none."""
        if not self.count:
            return []
        first = next((line for line in self.kept if line.strip()), "")
        return [f"the layer prints {self.count} lines, which are left out; the first: {first[:80]}"]


@contextlib.contextmanager
def held_back():
    """Keeps what is printed in the block from stdout; where it raises an exception, shows the first lines.

    Yields:
        The `Prints`.
    """
    prints = Prints()
    try:
        with contextlib.redirect_stdout(prints):
            yield prints
    except BaseException:
        print(*prints.kept, sep="\n", end="\n" if prints.kept else "")
        raise

"""Sums over the processes that train one net together. There is one process until `pylayers train` puts others here."""


class OneRank:
    """One process, the only one."""

    number, count = 0, 1

    def add(self, array):
        """Sums an array over all ranks, in place."""


ranks = OneRank()

"""Sums over the processes that train one net together. There is one process until `pylayers train` puts others here."""


class OneRank:
    """One process, the only one. With a `count` above 1 there is a method ``add``, which sums an array over all."""

    number, count = 0, 1


ranks = OneRank()

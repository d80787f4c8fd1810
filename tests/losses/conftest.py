"""The tests in this folder run with every engine."""

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _with_every_engine(engine):
    pass


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time(request):
    """A module's RANDOM begins anew with each test, whatever tests ran before in this process."""
    if hasattr(request.module, "RANDOM"):
        request.module.RANDOM = np.random.default_rng(0)

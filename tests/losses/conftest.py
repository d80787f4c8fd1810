"""The tests in this folder run with every engine."""

import pytest


@pytest.fixture(autouse=True)
def _with_every_engine(engine):
    pass

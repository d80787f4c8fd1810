"""What the pages say of the package, beside what `test_pages` runs."""

import re

from harness import ROOT

import pylayers
from pylayers.tools.doctor import page

OWN_LOSS = (ROOT / "docs/own-loss.md").read_text()


def test_the_loss_that_the_page_shows_is_the_files():
    file = (ROOT / "prototxt/own_loss/log_cosh_loss.py").read_text()
    assert f"```python\n# log_cosh_loss.py\n{file}```" in OWN_LOSS


def test_the_layers_of_the_readmes_table_are_those_of_the_package():
    readme = (ROOT / "README.md").read_text()
    assert sorted(set(re.findall(r"^\| `(\w+Layer)` \|", readme, re.MULTILINE))) == sorted(pylayers.__all__)


def test_the_page_of_doctors_rules_is_made_of_the_rules():
    """If this fails, run `python -m pylayers.tools.doctor.page` in the clone."""
    assert (ROOT / "docs/doctor.md").read_text() == page.text()

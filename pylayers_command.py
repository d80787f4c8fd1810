"""The command `pylayers`, which runs also where a module of the user's own is called pylayers and is found first."""

import importlib.util
import sys
from pathlib import Path


def main():
    """Runs the command; returns its exit status."""
    file = Path(__file__).parent / "pylayers/caffe_nets/kit.py"
    spec = importlib.util.spec_from_file_location("pylayers_kit", file)
    kit = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kit)
    place = kit.shadow()
    kit.bind()
    from pylayers.tools import cli

    if place and sys.argv[1:2] != ["doctor"]:  # doctor has a finding for it
        print(
            " ".join(["pylayers", *sys.argv[1:2]]), "; write: ".join(kit.shadow_words(place)), sep=": ", file=sys.stderr
        )
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())

"""``python -m pylayers``: the commands of `pylayers.cli`."""

import sys

from pylayers.cli import main

if __name__ == "__main__":
    sys.exit(main())

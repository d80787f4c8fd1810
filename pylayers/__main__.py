"""``python -m pylayers``: the commands of `pylayers.tools.cli`."""

import sys

from pylayers.tools.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""``python -m zsad`` is the command ``zsad``."""

import sys

from zsad.cli.main import main

if __name__ == "__main__":
    sys.exit(main())

"""Run a stage from a checkout: `python main.py stage=STAGE [KEY=VALUE ...]`; installed, the command is `magicoder`."""

import sys

from magicoder.cli import main

if __name__ == "__main__":
    sys.exit(main())

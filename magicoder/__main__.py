"""Run the program as `python -m magicoder`."""

import sys

from magicoder.cli import main

sys.exit(main())

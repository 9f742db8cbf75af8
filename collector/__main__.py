"""`python -m collector`: the same as the command ftrace-collector."""

import sys

from collector.cli import main

sys.exit(main())

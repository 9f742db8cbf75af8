"""What a program inside a guest says of what it looks at."""

import sys


def check(holds: object, what: str) -> None:
    """Say a check that holds; end with one that does not."""
    if not holds:
        sys.exit(f"FAIL {what}")
    print(f"ok {what}", flush=True)

"""All that the collector writes and that has to survive a crash."""

from tests.crash import archive, progress, receive, spool

CASES = {**archive.CASES, **receive.CASES, **spool.CASES, **progress.CASES}

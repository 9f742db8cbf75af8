"""Putting it together: everything that is built, started, watched over and taken down in order.

Called by commands/. The only room that knows of everything, and the only one that imports sinks/.

Read daemon.py (`run`: start and stop in order), pipeline.py (one run: sources, streams, outlet, ledger), service.py
(the live loop: ticks, signals, status), instances.py (several instances), interference.py (what others do to them),
clockwatch.py (jumps of the wall clock). The other roots: receive.py (`receive`), tap.py (`tap`).

Parts don't know each other: who needs another's function is handed it here. Whatever goes wrong, the stop is the
same: tracing off, rings drained, blocks closed, queue delivered, segment sealed, instance put back.
"""

"""Where blocks go: the archive, and over networks.

Called by collector/run alone. A sink is given blocks and notes; it delivers, and says what became of each entry.

Read contract/ (what a sink is), registry.py (types by name), assemble.py (settings to sinks), fanout.py (who gets
what), runner.py (the queue before the archive). Each sink has a package with sink.py, its settings at the top, a pure
protocol part, and sample.toml. What several share: network/, spool/, connect/, wire/.

A sink knows the contract, the archive's records and what is seen from outside; no sink knows another. A failed write
is tried again, spooled or counted, never only logged.
"""

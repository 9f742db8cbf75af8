"""What this kernel can do, what a configuration lacks, and who else is tracing: `doctor` and `list`.

Called by commands/, and by cli.py, which adds to an error what the doctor knows about it (`explain`).

Read survey.py (gathers facts, with an instance of its own that it removes), capabilities.py and demands.py (what
there is, what a configuration takes), judge.py (facts to findings), findings.py with kconfig.py (the words),
examine.py (all of it together), listing.py (`list`).

Gathering and judging are apart: judging is pure, so that another kernel is a value in a test. A fact that could not
be had is a fact too. Nothing is changed that is not put back, and nothing here is needed to collect.
"""

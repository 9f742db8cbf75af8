"""The configuration: TOML text to frozen models, with every problem of it in words, and back to text.

Called by commands/ (load, show) and by whoever is given settings; sinks bring models of their own, built on types.py.

Read text.py (layers of TOML, where each key stands), models.py with trace.py (the settings and their defaults),
types.py (what a value may be), sinks.py ([[sinks]], by models that the caller hands in), problems.py (errors in
words), load.py (all of it together), show.py (what is in force, as TOML).

A setting has a default, a line in systemd/config.toml and one in docs/operating.md. Nothing here looks at the kernel
or the disk: a configuration means the same everywhere. Importing models costs 50 ms: commands that only read don't.
"""

"""The stream protocol: the records of a segment as they are, for sinks of type stream and tap, `receive` and `tap`.

Called by sinks/stream, sinks/tap and run/tap.py; docs/stream.md describes it for others.

Read messages.py (the grammar, what is sent, what came), then sizes.py (how large a record may be, before it is
parsed), and preamble.py (what is sent first to a listener that comes later).

Bytes in, values out: no connection, no clock. What comes is from somebody else's hands, and is bounded first. Pure.
"""

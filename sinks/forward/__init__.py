"""Fluent Forward v1: entries as rows, or blocks as they are, to servers that speak it.

Called through the registry. docs/forward.md is for its users.

Read protocol.py (messages), records.py (parcels to rows), chunks.py (what is sent as one), settled.py (a batch that
comes again is named as it was), connection.py (one connection: handshake, acknowledgements), servers.py (which server,
and the connection to it), sink.py (settings; deliveries).

A chunk that is not acknowledged is sent again, under the same name. Blocks are not compressed twice.
"""

"""Object stores: sealed segments of the archive as objects, with a manifest for each day.

Called through the registry, as a follower of the archive. docs/objectstore.md is for its users.

Read names.py and manifest.py (what lies where), digest.py (a file before it is sent), store.py (put it, and verify),
durable.py (folders as stores), bring.py (one segment, whole), progress.py (what is done, on disk), waiting.py (what is
not, and what is lost), uploader.py (follows the archive), sink.py (settings).

An object is there whole or not at all. What retention removes before it is uploaded is counted.
"""

"""The live tap: whoever connects to the daemon's socket is given the records as they come, from then on.

Called through the registry; run/tap.py is the other end.

Read sink.py, all of it: settings, the socket, and a bounded queue for each subscriber.

A subscriber that is too slow is disconnected and counted; it never keeps the collector waiting. Who may connect, the
socket's mode and group say.
"""

"""Getting to a receiver: addresses, TLS, secrets, sockets to listen on.

Called by the sinks of networks, and by run/ for `receive` and `tap`.

Read address.py (HOST:PORT or unix:PATH), tls.py (contexts, the handshake, and what went wrong in words), secrets.py
(from a file or a credential), listening.py (a socket in the file system).

Verification is on unless it is switched off by name. A secret stands in no configuration, message or log line.
"""

"""What is seen from outside: the state of a run, its metrics, the status line, logs, HTTP and systemd's messages.

Called by run/, which fills the state; sinks fill theirs (`SinkSnapshot`). Nothing here asks back: whoever looks gets
values that were put down before, so that a stuck read of the kernel cannot hang a scrape.

Read state.py (frozen values, no behaviour), status.py (the one line), metrics_model.py (what a metric is), metrics.py
and metrics_sinks.py (the tables), metrics_receive.py (that of `receive`), exposition.py (tables to Prometheus),
http.py, logs.py, sdnotify.py.

A metric stands in one table with its type, labels and help; a golden file and docs/metrics.md pin it. Only this room
imports prometheus_client. A log line that cannot be written is dropped and counted; it never waits.
"""

"""What is seen from outside: the state of a run, its metrics, the status line, logs, HTTP and systemd's messages.

Called by run/, which fills the state; sinks fill theirs (`SinkSnapshot`). Nothing here asks back: whoever looks gets
values that were put down before, so that a stuck read of the kernel cannot hang a scrape.

Read state.py (frozen values, no behaviour), status.py (the one line), metrics.py with metrics_model.py and
metrics_sinks.py (state to Prometheus), metrics_receive.py (the same for `receive`), http.py, logs.py, sdnotify.py.

A metric stands in one table with its type, labels and help; a golden file and docs/metrics.md pin it. Only this room
imports prometheus_client. A log line that cannot be written is dropped and counted; it never waits.
"""

"""The archive on this host's disk: a folder of segments, and the policy of when they end and which go.

Called by run/daemon.py, which hands it its policy, and behind runner.py's queue.

Read policy.py (what it is told), sink.py (blocks into segments; suspended, and on again), rotation.py (when a segment
ends), retention.py (which go), shelf.py (the sealed ones, and the disk's room), folder.py (the locked folder). What is
told after a suspension, contract/untold.py keeps.

It never ends the daemon: with a full disk it is suspended, rings are drained on, and what was not kept is a gap
record.
"""

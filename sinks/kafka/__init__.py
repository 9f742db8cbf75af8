"""Kafka: each parcel is a message, acknowledged by all replicas, in the order of its CPU.

Called through the registry; consume.py by whoever makes an archive of a topic again. docs/kafka.md is for its users.

Read records.py (parcel to message), properties.py (settings to librdkafka's), producer.py (one producer and its
thread), sink.py (settings, errors and what they mean), rebuild.py and consume.py (messages to segments).

Options that break what is promised (order, acknowledgements) are refused. A producer's fatal error costs that
producer.
"""

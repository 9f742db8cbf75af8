"""What a sink is: the protocols, and the settings that all network sinks have.

Called by every sink and by those who put them together.

Read base.py: `Sink` keeps an archive itself, `Transport` brings parcels to a receiver, `Follower` comes behind the
archive's sealed segments; `Parcel` is a record on its way. Then options.py: `SinkCommon`, from which each sink's
settings derive, and `SinkType`, what the registry has of one. untold.py keeps what was not written until it can be
told, for the archive and for logs.

Nothing here runs. What a clause of the contract means is tested once for all sinks, in tests/contract.
"""

"""What production does to a daemon, each situation set up for real: the name of a test says what happened.

A test is marked like any other by what it needs (`kernel`, `network`); one that takes more than some seconds is marked
`long` besides, and only `make test-situations`, which runs all of them, runs it.
"""

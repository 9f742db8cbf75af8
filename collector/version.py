"""The program's name and version."""

PROGRAM = "ftrace-collector"
__version__ = "0.1.0"

"""ftrace-collector: from the kernel's ring buffers to a compressed archive that adds up."""

__version__ = "0.1.0"

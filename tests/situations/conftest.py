"""What the situations of the live kernel have in common with its other tests."""

from tests.kernel.conftest import load_program, start_daemon, start_load

__all__ = ["load_program", "start_daemon", "start_load"]

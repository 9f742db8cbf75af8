"""Whether somebody has set the wall clock: it went another way than the time since boot. Pure."""

# NTP slews 0.5 ms a second at most; a smaller step is in the clock pairs' error.
JUMP_NS = 500_000_000


class ClockWatch:
    """Compares two clocks from one look to the next.

    Args:
      wall_ns: CLOCK_REALTIME.
      boot_ns: CLOCK_BOOTTIME, which goes on while the machine sleeps.
    """

    def __init__(self, wall_ns: int, boot_ns: int) -> None:
        self.jumps = 0
        self._offset_ns = wall_ns - boot_ns

    def look(self, wall_ns: int, boot_ns: int) -> float | None:
        """Seconds by which the wall clock was set since the last look, below 0 for back; None: it was not."""
        jump_ns = wall_ns - boot_ns - self._offset_ns
        self._offset_ns += jump_ns
        if abs(jump_ns) < JUMP_NS:
            return None
        self.jumps += 1
        return jump_ns / 1e9

"""Waiting for a condition with a deadline."""

import time


def eventually(condition, what, seconds=60.0, interval=0.02):
    """Calls `condition` until it returns something true, and returns that.

    Exceptions of `condition` pass through. After `seconds` an AssertionError says `what` did not
    happen.
    """
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(interval)

"""Stops a process at a named place (`shared/runtime/src/hold.rs`), which only debug builds have."""

import contextlib
import pathlib

from .waiting import eventually


class Holding:
    """The places of the processes that got `env`."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir()
        self.env = {"REDKITE_HOLD_DIR": str(self.folder)}

    def arm(self, place):
        """Whoever comes to the place next is held there."""
        (self.folder / place).touch()

    def await_held(self, place, seconds=60):
        held = self.folder / f"{place}.held"
        eventually(held.exists, f"somebody is held at {place}", seconds, 0.005)

    def pass_on(self, place):
        """Who is held goes on, and whoever comes to the place next is held."""
        self.arm(place)
        (self.folder / f"{place}.held").unlink()

    def release(self, place):
        """Who is held goes on; nobody is held any more."""
        for name in (place, f"{place}.held"):
            with contextlib.suppress(FileNotFoundError):
                (self.folder / name).unlink()

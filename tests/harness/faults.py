"""Broken surroundings for a server: little memory, a full disk, a power cut, a sync that fails.

What is made here is named after the process that made it, and taken away at the end of a test. What a
killed run has left is swept away by the next one (`sweep`), which touches only names of its own kind
whose maker is gone.
"""

import contextlib
import errno
import fcntl
import itertools
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

PREFIX = "redkite-test-"
MEMORY_V1 = pathlib.Path("/sys/fs/cgroup/memory")
MEMORY_V2 = pathlib.Path("/sys/fs/cgroup")
# The ioctl EXT4_IOC_SHUTDOWN, and its flag that neither data nor the journal is written any more.
EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2

_numbers = itertools.count(1)


def _name():
    return f"{PREFIX}{os.getpid()}-{next(_numbers)}"


def _maker(text):
    """The process that a name in `text` was made by, or None."""
    found = re.search(re.escape(PREFIX) + r"(\d+)-\d+", text)
    return int(found.group(1)) if found else None


def _is_left_over(text):
    maker = _maker(text)
    return maker is not None and not pathlib.Path(f"/proc/{maker}").exists()


def _run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _try(*command):
    """Runs a command that may be impossible here: then the test is skipped and says why."""
    try:
        done = _run(*command)
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{command[0]} cannot be run here: {error}")
    if done.returncode != 0:
        pytest.skip(f"{' '.join(command)} is not possible here: {done.stderr.strip()}")
    return done.stdout.strip()


def sweep():
    """Takes away what earlier runs have left: processes, mounts, loop devices, memory groups."""
    for stat in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if _is_left_over(stat.read_bytes().decode(errors="replace")):
                os.kill(int(stat.parent.name), signal.SIGKILL)
    with contextlib.suppress(OSError):
        for line in reversed(pathlib.Path("/proc/mounts").read_text().splitlines()):
            place = line.split()[1]
            if _is_left_over(place):
                _run("umount", "-l", place)
    for backing in pathlib.Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if _is_left_over(backing.read_text()):
                _run("losetup", "-d", f"/dev/{backing.parents[1].name}")
    for root in (MEMORY_V1, MEMORY_V2):
        for group in root.glob(f"{PREFIX}*"):
            with contextlib.suppress(OSError):
                if _is_left_over(group.name):
                    group.rmdir()
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left_over(folder.name):
            shutil.rmtree(folder, ignore_errors=True)


def _need_root():
    if os.geteuid() != 0:
        pytest.skip("only root can mount file systems and limit memory")


@contextlib.contextmanager
def _folder():
    folder = pathlib.Path(tempfile.gettempdir()) / _name()
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unmount(place):
    if place.is_mount() and _run("umount", str(place)).returncode != 0:
        _run("umount", "-l", str(place))


@contextlib.contextmanager
def small_disk(size_bytes):
    """A folder on a file system of its own with so many bytes."""
    _need_root()
    with _folder() as folder:
        place = folder / "disk"
        place.mkdir()
        _try("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(place))
        try:
            yield place
        finally:
            _unmount(place)


def fill(place, leave=0):
    """Fills the file system of a folder but for `leave` bytes; returns the file to delete, which may be missing."""
    filler = place / "filler"
    try:
        file = open(filler, "ab")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # Whoever writes there at the same time was faster.
        return filler
    # What could not be written is tried again when the file is closed.
    with contextlib.suppress(OSError), file:
        while True:
            stat = os.statvfs(place)
            left = stat.f_bavail * stat.f_frsize - leave
            if left <= 0:
                break
            file.write(b"\1" * min(left, 1 << 20))
            file.flush()
    return filler


class LoopDisk:
    """An ext4 file system in a file, which can lose its power."""

    def __init__(self, folder, size_bytes):
        self.image = folder / "image"
        self.place = folder / "disk"
        self.place.mkdir()
        with open(self.image, "wb") as file:
            file.truncate(size_bytes)
        _try("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0", str(self.image))
        self.device = _try("losetup", "--find", "--show", str(self.image))

    def mount(self):
        _try("mount", "-t", "ext4", self.device, str(self.place))

    def cut_power(self):
        """From now on nothing is written: what was not synced is lost."""
        folder = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH.to_bytes(4, "little"))
        except OSError as error:
            pytest.skip(f"ext4 cannot be shut down here: {error}")
        finally:
            os.close(folder)

    def restore_power(self):
        """Mounts again what is there; nobody may have files open."""
        done = _run("umount", str(self.place))
        assert done.returncode == 0, done.stderr
        self.mount()

    def close(self):
        _unmount(self.place)
        _run("losetup", "-d", self.device)


@contextlib.contextmanager
def loop_disk(size_bytes):
    """A mounted `LoopDisk`."""
    _need_root()
    with _folder() as folder:
        disk = LoopDisk(folder, size_bytes)
        try:
            disk.mount()
            yield disk
        finally:
            disk.close()


class MemoryGroup:
    """A control group with a memory limit beyond which the kernel kills; without one at first if that is None."""

    def __init__(self, limit_bytes=None):
        name = _name()
        self.is_v1 = (MEMORY_V1 / "memory.limit_in_bytes").exists()
        self.path = (MEMORY_V1 if self.is_v1 else MEMORY_V2) / name
        try:
            self.path.mkdir()
            self.limit(limit_bytes)
        except OSError as error:
            self.close()
            pytest.skip(f"no memory group can be made here: {error}")

    def limit(self, limit_bytes):
        """Lowers or lifts the limit. Pages of files that are beyond it are forgotten."""
        none, name = ("-1", "memory.limit_in_bytes") if self.is_v1 else ("max", "memory.max")
        (self.path / name).write_text(none if limit_bytes is None else str(limit_bytes))

    def forget_files(self):
        """Pages of files that ended processes have left are counted no more, as far as the kernel has a way."""
        if self.is_v1:
            (self.path / "memory.force_empty").write_text("0")

    def processes(self):
        """Ids of the processes in the group."""
        return [int(line) for line in (self.path / "cgroup.procs").read_text().split()]

    @property
    def wrapper(self):
        """Put before a command, it runs the command in the group."""
        script = f'echo $$ > {self.path}/cgroup.procs && exec "$@"'
        return ["/bin/sh", "-c", script, "sh"]

    def hits(self):
        """How often memory was wanted that the limit did not leave, until something else was given back."""
        if self.is_v1:
            return int((self.path / "memory.failcnt").read_text())
        return self._event("memory.events", "max")

    def kills(self):
        """How often the kernel has killed a process for its memory."""
        return self._event("memory.oom_control" if self.is_v1 else "memory.events", "oom_kill")

    def _event(self, file, name):
        for line in (self.path / file).read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
        return 0

    def close(self):
        with contextlib.suppress(OSError):
            self.path.rmdir()


@contextlib.contextmanager
def memory_group(limit_bytes=None):
    """A `MemoryGroup`; its processes must have ended at the end."""
    _need_root()
    group = MemoryGroup(limit_bytes)
    try:
        yield group
    finally:
        group.close()


def _library(folder, name):
    """A library made of `name`.c beside this file, to be loaded before others."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source = pathlib.Path(__file__).with_name(f"{name}.c")
    library = folder / f"{name}.so"
    _try(compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl")
    return library


class MovedClock:
    """A library that, loaded before others, moves the wall clock; at first by nothing."""

    def __init__(self, folder):
        library = _library(folder, "moved_clock")
        self.seconds = folder / "seconds"
        self.seconds.write_bytes(bytes(8))
        self.env = {"LD_PRELOAD": str(library), "REDKITE_MOVED_CLOCK": str(self.seconds)}

    def move(self, seconds):
        """The clock shows so many seconds more than it should from now on."""
        with open(self.seconds, "r+b") as file:
            file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


class FailingSync:
    """A library that, loaded before others, makes syncs of some files fail with EIO, or not return."""

    def __init__(self, folder):
        library = _library(folder, "failing_sync")
        self.flag, self.held = folder / "failing", folder / "held"
        self.env = {
            "LD_PRELOAD": str(library),
            "REDKITE_FAILING_SYNC": str(self.flag),
            "REDKITE_HELD_SYNC": str(self.held),
        }

    def start(self, pattern):
        """Syncs of files whose path contains `pattern` fail from now on."""
        self._write(self.flag, pattern)

    def hold(self, pattern):
        """Syncs of files whose path contains `pattern` do not return from now on."""
        self._write(self.held, pattern)

    def stop(self):
        self.flag.unlink(missing_ok=True)
        self.held.unlink(missing_ok=True)

    @staticmethod
    def _write(flag, pattern):
        before = flag.with_suffix(".new")
        before.write_text(pattern)
        before.rename(flag)

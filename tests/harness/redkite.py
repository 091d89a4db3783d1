"""The subcommands of the `redkite` binary."""

import json
import subprocess

from .process import server_binary


def run(*words, timeout=120):
    """Exit code, output and errors of a subcommand."""
    command = [str(word) for word in (server_binary(), *words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    return done.returncode, done.stdout, done.stderr


def fsck(data_dir=None, admin_port=None):
    """The report on a stopped data directory or a running server; the exit code must match it."""
    if admin_port is None:
        where = ("--data-dir", data_dir)
    else:
        where = ("--admin", f"127.0.0.1:{admin_port}")
    code, out, err = run("fsck", *where, "--json")
    assert code in (0, 1), err
    report = json.loads(out)
    assert code == (1 if report["problems"] else 0), report
    return report


def gc(server, dry_run=False):
    """What a round of garbage collection would delete, or has deleted."""
    words = ["gc", "--json", "--admin", f"127.0.0.1:{server.admin_port}"]
    code, out, err = run(*words, *(["--dry-run"] if dry_run else []))
    assert code == 0, err
    return json.loads(out)

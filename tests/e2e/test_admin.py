"""The admin subcommands of `redkite` and what the admin port shows."""

import json
import subprocess

from harness.data import create_simple
from harness.process import server_binary


def redkite(server, *words):
    """Runs a subcommand against the server's admin port; its exit code, output and errors."""
    command = [server_binary(), *words, "--admin", f"127.0.0.1:{server.admin_port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_metadata_is_listed_and_shown_in_readable_form(server, client, name):
    create_simple(client, name)
    client.create_partition(name, "early")
    info = client.describe_collection(name)
    prefix = f"root-coord/partitions/{info['collection_id']}/"
    code, out, err = redkite(server, "meta", "ls", prefix)
    assert code == 0, err
    assert len(out.splitlines()) == 2
    assert all(line.startswith(prefix) for line in out.splitlines())
    code, out, err = redkite(server, "meta", "get", prefix, "--decode")
    assert code == 0, err
    assert '"_default"' in out
    assert '"early"' in out


def test_sagas_and_the_raft_group_are_shown(server):
    code, out, err = redkite(server, "raft", "status")
    assert code == 0, err
    status = json.loads(out)
    assert status["leader"] == status["node_id"]
    assert status["applied"] > 0
    # Nothing is under way, so there is nothing to show.
    code, _, err = redkite(server, "saga", "ls")
    assert code == 0, err


def test_a_saga_that_is_not_there_is_named_and_an_abort_wants_to_be_confirmed(server):
    for words in (["show", "77"], ["retry", "77"], ["abort", "77", "--yes"]):
        code, _, err = redkite(server, "saga", *words)
        assert code == 1
        assert "77" in err
    code, _, err = redkite(server, "saga", "abort", "77")
    assert code == 1
    assert "--yes" in err


def test_nobody_there_is_said(server):
    command = [server_binary(), "raft", "status", "--admin", "127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "127.0.0.1:1" in done.stderr

"""Several proxies of one deployment: what was changed through one counts at the others at once."""

import pytest
from harness.access import PASSWORD, ROOT, denied, unauthenticated
from harness.process import BIN_DIR, Process, connect, free_port

WRONG = "auth check failure, please check username and password are correct"


@pytest.fixture
def proxies(tmp_path):
    """A root coordinator and two proxies, which is all that users and roles need."""
    rpc = free_port()
    processes = []

    def add(service, listen):
        folder = tmp_path / f"data{len(processes)}"
        admin = free_port()
        command = [BIN_DIR / service, "--data-dir", folder, "--listen", f"127.0.0.1:{listen}"]
        command += ["--admin-listen", f"127.0.0.1:{admin}", "--rootcoord", f"127.0.0.1:{rpc}"]
        # Only proxies have the section.
        env = {"REDKITE__SECURITY__AUTHORIZATION": "true"} if service == "proxy" else None
        log = tmp_path / f"{service}{len(processes)}.log"
        processes.append(Process(service, command, admin, log, env))
        processes[-1].uri = f"http://127.0.0.1:{listen}"

    add("rootcoord", rpc)
    add("proxy", free_port())
    add("proxy", free_port())
    try:
        for process in processes:
            process.spawn()
        for process in processes:
            process.wait_ready()
        yield processes[1:]
    finally:
        for process in reversed(processes):
            process.stop()


def test_changes_count_at_every_proxy_once_they_are_answered(proxies):
    here, there = (connect(proxy.uri, token=ROOT) for proxy in proxies)
    here.create_user("bob", PASSWORD)
    bob = connect(proxies[1].uri, token=f"bob:{PASSWORD}")
    here.create_role("asks")
    here.grant_role("bob", "asks")
    for _ in range(10):
        with denied("SelectOwnership", "bob"):
            bob.list_users()
        here.grant_privilege_v2("asks", "SelectOwnership", "*", db_name="*")
        assert "bob" in bob.list_users()
        here.revoke_privilege_v2("asks", "SelectOwnership", "*", db_name="*")
    passwords = [PASSWORD, "an0ther"]
    for _ in range(3):
        old, new = passwords
        here.update_password("bob", old, new)
        with unauthenticated(WRONG):
            bob.describe_user("bob")
        bob.close()
        bob = connect(proxies[1].uri, token=f"bob:{new}")
        assert bob.describe_user("bob")["roles"] == ("asks",)
        passwords = [new, old]
    there.drop_user("bob")
    with unauthenticated(WRONG):
        bob.describe_user("bob")
    for client in (here, there, bob):
        client.close()

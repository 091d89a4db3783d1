"""A server with authorization on, and refusals of it."""

import contextlib

import grpc
import pytest

from .vikingdb import VikingServer

ROOT = "root:Milvus"
PASSWORD = "P@ssw0rd"

# Access keys of VikingDB's API: key, secret, user.
KEYS = [("AKROOT", "SKROOT", "root"), ("AKBOB", "SKBOB", "bob"), ("AKNONE", "SKNONE", "nobody")]


class GuardedServer(VikingServer):
    """Authorization is on, and VikingDB's API has keys of several users."""

    def __init__(self, folder):
        config = folder / "redkite.toml"
        keys = "".join(
            f'[[vikingdb.keys]]\naccess_key = "{key}"\nsecret_key = "{secret}"\nuser = "{user}"\n'
            for key, secret, user in KEYS
        )
        config.write_text(f"[security]\nauthorization = true\n{keys}")
        super().__init__(folder, config=config)

    def client(self, token=ROOT, **kwargs):
        return super().client(token=token, **kwargs)


@contextlib.contextmanager
def denied(privilege, user, database="default"):
    """The block must be refused for want of a privilege, in Milvus's words."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = caught.value
    assert error.code() == grpc.StatusCode.PERMISSION_DENIED, error
    text = f"Privilege{privilege}: permission deny to {user} in the `{database}` database"
    assert error.details() == text, error


@contextlib.contextmanager
def unauthenticated(text):
    """The block must be refused for want of a right password."""
    with pytest.raises(grpc.RpcError) as caught:
        yield
    error = caught.value
    assert error.code() == grpc.StatusCode.UNAUTHENTICATED, error
    assert error.details() == text, error

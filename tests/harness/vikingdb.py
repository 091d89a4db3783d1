"""A server with VikingDB's API on, and requests to it: of the SDK and signed by hand."""

import json
import urllib.error
import urllib.parse
import urllib.request

from volcengine.auth.SignerV4 import SignerV4
from volcengine.base.Request import Request
from volcengine.Credentials import Credentials
from volcengine.viking_db import VikingDBService

from .process import Server, free_port

ACCESS_KEY = "AKTEST"
SECRET_KEY = "SKTEST"
REGION = "cn-north-1"


class VikingServer(Server):
    """A standalone server with one access key of `root`; `host` is what SDKs are given."""

    def __init__(self, folder, env=None, settings=None, config=None):
        self.host = f"127.0.0.1:{free_port()}"
        own = {
            "REDKITE__VIKINGDB__LISTEN": self.host,
            "REDKITE__VIKINGDB__ACCESS_KEY": ACCESS_KEY,
            "REDKITE__VIKINGDB__SECRET_KEY": SECRET_KEY,
        }
        super().__init__(folder, env={**own, **(env or {})}, settings=settings)
        if config:
            self.command += ["--config", str(config)]

    def service(self):
        return service(self.host)

    def stop(self):
        code = super().stop()
        if self.log_path.exists():
            assert SECRET_KEY not in self.log_path.read_text(errors="replace"), "a secret is logged"
        return code


def service(host):
    """The SDK's client, which is one object a process: a new call turns it to another server."""
    return VikingDBService(host, REGION, ACCESS_KEY, SECRET_KEY)


def call(host, path, body, method="POST", key=ACCESS_KEY, secret=SECRET_KEY, query=None):
    """A request signed as VikingDB's documentation shows, without a host; (status, answer).

    It has no body where `body` is None.
    """
    request = sign(host, path, body, method, key, secret, query)
    if query:
        path = f"{path}?{urllib.parse.urlencode(query)}"
    return send(host, path, request.body, request.headers, method)


def sign(host, path, body, method="POST", key=ACCESS_KEY, secret=SECRET_KEY, query=None):
    """The request of `call` with its headers."""
    request = Request()
    request.set_shema("http")
    request.set_method(method)
    request.set_host(host)
    request.set_path(path)
    request.set_query(query or {})
    request.set_headers({"Accept": "application/json", "Content-Type": "application/json"})
    request.set_body("" if body is None else json.dumps(body))
    SignerV4.sign(request, Credentials(key, secret, "air", REGION))
    assert "host" not in request.headers["Authorization"]
    return request


def send(host, path, body, headers, method="POST"):
    """Sends bytes as they are; (status, answer)."""
    request = urllib.request.Request(
        f"http://{host}{path}", data=body.encode() or None, headers=headers, method=method
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)

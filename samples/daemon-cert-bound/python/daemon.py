#!/usr/bin/env python3
"""An app without a user, a daemon app as Entra calls it: it gets a token of its own and calls an API with it.

It holds no credential. The agent on this machine knows which one the identity has, and whether that is bound to the TPM, so this file
is the same whatever the agent's configuration says. It keeps no token either: the agent does, and renews it in time.

    IDENTITY         name in the agent's configuration
    RESOURCE         what the token is for, as in https://vault.azure.net
    API_URL          what to call, https
    CA_FILE          optional: PEM of the authorities to trust instead of the system's
    KEYAGENT_SOCKET  optional: the agent's socket

Python 3.9 or newer, nothing else.
"""

import http.client
import json
import os
import socket
import ssl
import sys
import time
from urllib.parse import urlencode, urlsplit

ATTEMPTS = 5
LONGEST_WAIT = 60  # seconds; who asks for more is left alone
TIMEOUT = 90  # seconds


class Failure(Exception):
    """What went wrong; retry_after is in seconds, and 0 means that asking again will not help."""

    def __init__(self, text, retry_after=0):
        super().__init__(text)
        self.retry_after = retry_after


class AgentConnection(http.client.HTTPConnection):
    """HTTP over the agent's Unix socket."""

    def __init__(self, path):
        super().__init__("keyagent", timeout=TIMEOUT)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(who, connection, path, headers):
    """The body of a 200, and a Failure for every other answer. Redirects are not followed: the token is for one API alone."""
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read().decode()
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"{who}: {error}") from error
    finally:
        connection.close()
    if response.status == 200:
        return body
    seconds = response.getheader("Retry-After", "")
    temporary = response.status in (429, 503) and seconds.isdecimal()
    text = explain(response.getheader("Content-Type"), body)
    raise Failure(f"{who} answered {response.status}: {text}", int(seconds) if temporary else 0)


def explain(content_type, body):
    """What a problem (RFC 9457) says went wrong and, of the agent's, what to do; any other body as it is."""
    if content_type != "application/problem+json":
        return body
    try:
        problem = json.loads(body)
        return "; ".join(problem[part] for part in ("detail", "hint") if problem.get(part)) or body
    except (ValueError, TypeError, AttributeError):
        return body


def token():
    path = os.environ.get("KEYAGENT_SOCKET", "/run/keyagent/agent.sock")
    query = urlencode({"identity": os.environ["IDENTITY"], "resource": os.environ["RESOURCE"]})
    return json.loads(get(f"the agent at {path}", AgentConnection(path), "/v1/token?" + query, {}))["access_token"]


def call_api(access_token):
    url = urlsplit(os.environ["API_URL"])
    if url.scheme != "https":
        raise Failure("API_URL must be an https URL: the token goes there")
    authorities = os.environ.get("CA_FILE")
    try:
        trust = ssl.create_default_context(cafile=authorities)
    except OSError as error:
        raise Failure(f"{authorities}: {error}") from error
    connection = http.client.HTTPSConnection(url.hostname, url.port, timeout=TIMEOUT, context=trust)
    path = (url.path or "/") + ("?" + url.query if url.query else "")
    return get("the API", connection, path, {"Authorization": "Bearer " + access_token})


def run():
    """Does the work, and again after a while when agent or API say that this will help."""
    for name in ("IDENTITY", "RESOURCE", "API_URL"):
        if not os.environ.get(name):
            raise Failure(f"{name} is not set")
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return call_api(token())
        except Failure as failure:
            if not 0 < failure.retry_after <= LONGEST_WAIT or attempt == ATTEMPTS:
                raise
            time.sleep(failure.retry_after)


if __name__ == "__main__":
    try:
        print(run())
    except Failure as failure:
        sys.exit(f"daemon: {failure}")

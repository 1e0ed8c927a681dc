#!/usr/bin/env python3
"""Knows nothing of keyagent: it gets a token as Azure's SDKs do in App Service, calls an API with it and prints the answer.

A program of yours uses an SDK in the place of the function token.

    IDENTITY_ENDPOINT  where tokens are; with IDENTITY_HEADER, as App Service sets it
    RESOURCE           what the token is for, as in https://vault.azure.net
    API_URL            what to call, https
    CA_FILE            optional: PEM of the authorities to trust instead of the system's

Python 3.9 or newer, nothing else.
"""

import json
import os
import ssl
import sys
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, HTTPSHandler, Request, build_opener

TIMEOUT = 90  # seconds


class NoRedirect(HTTPRedirectHandler):
    """The token and the secret are for one address each."""

    def redirect_request(self, *_):
        return None


def get(url, headers):
    trust = ssl.create_default_context(cafile=os.environ.get("CA_FILE"))
    opener = build_opener(NoRedirect, HTTPSHandler(context=trust))  # like the SDKs, it asks the proxies that the environment names
    try:
        with opener.open(Request(url, headers=headers), timeout=TIMEOUT) as response:
            return response.read().decode()
    except HTTPError as error:
        sys.exit(f"whoami: {urlsplit(url).netloc} answered {error.code}: {error.read().decode()}")
    except URLError as error:
        sys.exit(f"whoami: {urlsplit(url).netloc}: {error.reason}")


def token():
    """What an SDK does; it would keep the token until refresh_in, too."""
    query = urlencode({"api-version": "2019-08-01", "resource": os.environ["RESOURCE"]})
    body = get(os.environ["IDENTITY_ENDPOINT"] + "?" + query, {"X-IDENTITY-HEADER": os.environ["IDENTITY_HEADER"]})
    return json.loads(body)["access_token"]


if __name__ == "__main__":
    if not os.environ.get("IDENTITY_ENDPOINT"):
        sys.exit("whoami: IDENTITY_ENDPOINT is not set")
    if urlsplit(os.environ["API_URL"]).scheme != "https":
        sys.exit("whoami: API_URL must be an https URL: the token goes there")
    print(get(os.environ["API_URL"], {"Authorization": "Bearer " + token()}))

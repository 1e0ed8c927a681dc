"""usage: python3 - SCOPE [CLIENT_ID] <token.py

Asks the Azure SDK for Python twice for a managed identity's token, and prints as JSON what an app sees.
"""

import json
import sys

from azure.core.exceptions import AzureError
from azure.identity import ManagedIdentityCredential

scope, *client_id = sys.argv[1:]
credential = ManagedIdentityCredential(client_id=client_id[0] if client_id else None)
try:
    first = credential.get_token(scope)
    second = credential.get_token(scope)
    print(json.dumps({"token": first.token, "again": second.token, "expires": first.expires_on}))
except AzureError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))

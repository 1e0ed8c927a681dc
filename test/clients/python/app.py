"""usage: python3 - LIBRARY RESOURCE [client_id=ID | object_id=ID | resource_id=ID] <app.py

An app whose library asks for a managed identity's token twice, without a line about the agent. Prints as JSON what it sees.
"""

import json
import sys

from azure.core.exceptions import AzureError
from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

library, resource, *selector = sys.argv[1:]
by, _, value = selector[0].partition("=") if selector else ("", "", "")
names = {"client_id": "client_id", "object_id": "object_id", "resource_id": "mi_res_id"}

if library == "DefaultAzureCredential":
    credential = DefaultAzureCredential()
elif by == "client_id":
    credential = ManagedIdentityCredential(client_id=value)
else:
    credential = ManagedIdentityCredential(identity_config={names[by]: value} if by else None)
try:
    first = credential.get_token(f"{resource}/.default")
    second = credential.get_token(f"{resource}/.default")
    print(json.dumps({"token": first.token, "again": second.token, "expires": first.expires_on}))
except AzureError as error:
    print(json.dumps({"error": f"{type(error).__name__}: {error}"}))

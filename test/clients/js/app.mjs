// usage: node --input-type=module - LIBRARY RESOURCE [client_id=ID | object_id=ID | resource_id=ID] <app.mjs
//
// An app whose library asks for a managed identity's token twice, without a line about the agent. Prints as JSON what it sees.

import { DefaultAzureCredential, ManagedIdentityCredential } from "@azure/identity";
import { ManagedIdentityApplication } from "@azure/msal-node";

const [library, resource, selector = ""] = process.argv.slice(2);
const [by, id] = selector.split(/=(.*)/s);
const seconds = (ms) => (ms ? Math.floor(ms / 1000) : 0);

// of an Azure SDK credential
function sdk(credential) {
  return async () => {
    const { token, expiresOnTimestamp, refreshAfterTimestamp } = await credential.getToken(`${resource}/.default`);
    return { token, expires: seconds(expiresOnTimestamp), refresh: seconds(refreshAfterTimestamp) };
  };
}

function msal() {
  const names = { client_id: "userAssignedClientId", object_id: "userAssignedObjectId", resource_id: "userAssignedResourceId" };
  const app = new ManagedIdentityApplication({ managedIdentityIdParams: id ? { [names[by]]: id } : {} });
  return async () => {
    const { accessToken, expiresOn, refreshOn } = await app.acquireToken({ resource });
    return { token: accessToken, expires: seconds(expiresOn?.getTime()), refresh: seconds(refreshOn?.getTime()) };
  };
}

const libraries = {
  "@azure/identity": () => sdk(new ManagedIdentityCredential(id ? { [{ client_id: "clientId", object_id: "objectId", resource_id: "resourceId" }[by]]: id } : {})),
  DefaultAzureCredential: () => sdk(new DefaultAzureCredential()),
  "msal-node": msal,
};

try {
  const get = libraries[library]();
  const first = await get();
  const { token: again } = await get();
  console.log(JSON.stringify({ ...first, again }));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.name}: ${error.message}` }));
}

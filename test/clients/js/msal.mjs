// usage: node --input-type=module --eval "$(cat msal.mjs)"
//
// Lets MSAL for JavaScript get a token for each case that arrives, a line of JSON on standard input, and prints what an app
// sees as another line.

import { createInterface } from "node:readline";
import { ConfidentialClientApplication, ManagedIdentityApplication } from "@azure/msal-node";

function confidential(c) {
  const auth = { clientId: c.client_id, authority: c.authority };
  if (c.capabilities) auth.clientCapabilities = c.capabilities;
  if (c.assertion) {
    auth.clientAssertion = async () => c.assertion;
  } else {
    auth.clientCertificate = { privateKey: c.key };
    auth.clientCertificate[c.sha1 ? "thumbprint" : "thumbprintSha256"] = c.thumbprint;
    if (c.x5c) auth.clientCertificate.x5c = c.certificate;
  }
  const app = new ConfidentialClientApplication({ auth });
  const request = { scopes: [c.scope] };
  if (c.region) request.azureRegion = c.region;
  if (c.claims) request.claims = c.claims;
  return (fresh) => app.acquireTokenByClientCredential({ ...request, skipCache: fresh });
}

function managed(c) {
  const selector = {};
  if (c.identity?.client_id) selector.userAssignedClientId = c.identity.client_id;
  if (c.identity?.object_id) selector.userAssignedObjectId = c.identity.object_id;
  if (c.identity?.resource_id) selector.userAssignedResourceId = c.identity.resource_id;
  const app = new ManagedIdentityApplication({ managedIdentityIdParams: selector, clientCapabilities: c.capabilities });
  return (fresh) => app.acquireToken({ resource: c.scope, forceRefresh: fresh, claims: c.claims });
}

for await (const line of createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  const answer = { tokens: [] };
  try {
    const get = c.kind === "managed_identity" ? managed(c) : confidential(c);
    for (const fresh of c.calls) answer.tokens.push((await get(fresh)).accessToken);
  } catch (error) {
    answer.error = `${error.name}: ${error.message}`;
  }
  console.log(JSON.stringify(answer));
}

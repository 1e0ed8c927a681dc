// usage: node --input-type=module --eval "$(cat identity.mjs)"
//
// Lets the Azure SDK for JavaScript get a token for each case that arrives, a line of JSON on standard input, and prints what an app
// sees as another line.

import { writeFile } from "node:fs/promises";
import { createInterface } from "node:readline";
import { ClientAssertionCredential, ClientCertificateCredential, ManagedIdentityCredential, WorkloadIdentityCredential } from "@azure/identity";

async function credential(c) {
  const options = { authorityHost: "https://login.microsoftonline.com" };
  switch (c.kind) {
    case "managed_identity": {
      const { client_id: clientId, object_id: objectId, resource_id: resourceId } = c.identity ?? {};
      return new ManagedIdentityCredential(clientId ? { clientId } : objectId ? { objectId } : resourceId ? { resourceId } : {});
    }
    case "assertion":
      return new ClientAssertionCredential(c.tenant, c.client_id, async () => c.assertion, options);
    case "assertion_file": {
      const tokenFilePath = `${process.env.HOME}/assertion`;
      await writeFile(tokenFilePath, c.assertion);
      return new WorkloadIdentityCredential({ tenantId: c.tenant, clientId: c.client_id, tokenFilePath, ...options });
    }
  }
  return new ClientCertificateCredential(c.tenant, c.client_id, { certificate: c.key + c.certificate }, { sendCertificateChain: c.x5c, ...options });
}

for await (const line of createInterface({ input: process.stdin })) {
  const c = JSON.parse(line);
  const answer = { tokens: [] };
  try {
    delete process.env.AZURE_REGIONAL_AUTHORITY_NAME;
    if (c.region) process.env.AZURE_REGIONAL_AUTHORITY_NAME = c.region;
    const from = await credential(c);
    const options = { claims: c.claims || undefined, enableCae: Boolean(c.capabilities) };
    for (const _ of c.calls) answer.tokens.push((await from.getToken(c.scope, options)).token);
  } catch (error) {
    answer.error = `${error.name}: ${error.message}`;
  }
  console.log(JSON.stringify(answer));
}

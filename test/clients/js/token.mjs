// usage: node --input-type=module - SCOPE [CLIENT_ID] <token.mjs
//
// Asks the Azure SDK for JavaScript twice for a managed identity's token, and prints as JSON what an app sees.

import { ManagedIdentityCredential } from "@azure/identity";

const [scope, clientId] = process.argv.slice(2);
const credential = new ManagedIdentityCredential(clientId ? { clientId } : {});
try {
  const first = await credential.getToken(scope);
  const second = await credential.getToken(scope);
  console.log(JSON.stringify({ token: first.token, again: second.token, expires: Math.floor(first.expiresOnTimestamp / 1000) }));
} catch (error) {
  console.log(JSON.stringify({ error: `${error.name}: ${error.message}` }));
}

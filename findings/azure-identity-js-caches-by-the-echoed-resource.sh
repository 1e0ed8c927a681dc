#!/usr/bin/env bash
# @azure/identity 4.13.1 (with the @azure/msal-node that it brings): ManagedIdentityCredential keeps a token under the
# resource that the answer names, and looks for it under the resource that was asked for.
#
# The answer of IMDS or App Service has a member "resource". If it is not character for character what
# was asked for, as with a slash more at its end, the token that was kept is never found again: every
# getToken() makes a request, though the token lives for a day. No error and no log line says so. An
# answer without the member, or in other letters, does no harm.
#
# Expected: the token is kept under what was asked for, or the answer is not taken.
#
# What it means: whoever doubles these endpoints must echo the resource as it was sent, and must not
# normalise it.
#
# Seen with Node 20 on Linux; requests for three calls of getToken():
#
#   echoed as asked: 1
#   a slash more: 3
#   in capital letters: 1
#   no resource: 1
#
# Needs Node, npm and its registry. Exit status 0 if it is still so, 1 if not.
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
cd "$dir"

npm init -y >/dev/null
npm install --silent --ignore-scripts --no-audit --no-fund @azure/identity@4.13.1

cat >finding.mjs <<'JS'
import { createServer } from "node:http";
import { ManagedIdentityCredential } from "@azure/identity";

let requests = 0;
let echo;
// Stands for App Service, as the environment says.
const service = createServer((request, response) => {
  requests++;
  const resource = new URL(request.url, "http://localhost").searchParams.get("resource");
  const expires = Math.floor(Date.now() / 1000) + 86400;
  response.setHeader("content-type", "application/json");
  response.end(JSON.stringify({ access_token: `token-${requests}`, token_type: "Bearer", client_id: "c", expires_on: `${expires}`, resource: echo(resource) }));
}).listen(0, "127.0.0.1");
await new Promise((resolve) => service.once("listening", resolve));
process.env.IDENTITY_ENDPOINT = `http://127.0.0.1:${service.address().port}/msi/token`;
process.env.IDENTITY_HEADER = "secret";

const answers = {
  "echoed as asked": (resource) => resource,
  "a slash more": (resource) => `${resource}/`,
  "in capital letters": (resource) => resource.toUpperCase(),
  "no resource": () => undefined,
};
for (const [name, how] of Object.entries(answers)) {
  requests = 0;
  echo = how;
  const resource = `https://${name.replaceAll(" ", "-")}.example`; // the cache is the process's
  const credential = new ManagedIdentityCredential();
  for (let i = 0; i < 3; i++) await credential.getToken(`${resource}/.default`);
  console.log(`${name}: ${requests}`);
}
service.close();
JS

node finding.mjs | tee got
cat >want <<'WANT'
echoed as asked: 1
a slash more: 3
in capital letters: 1
no resource: 1
WANT
diff want got

#!/usr/bin/env node
// Knows nothing of keyagent: it gets a token as Azure's SDKs do in App Service, calls an API with it and prints the answer.
//
// A program of yours uses an SDK in the place of the function token.
//
//   IDENTITY_ENDPOINT  where tokens are; with IDENTITY_HEADER, as App Service sets it
//   RESOURCE           what the token is for, as in https://vault.azure.net
//   API_URL            what to call, https
//   CA_FILE            optional: PEM of the authorities to trust instead of the system's
//
// Node 18 or newer, nothing else.

import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";

const TIMEOUT = 90_000; // milliseconds

const { IDENTITY_ENDPOINT, IDENTITY_HEADER, RESOURCE, API_URL, CA_FILE } = process.env;

async function get(url, headers) {
  const { protocol, host } = new URL(url);
  const ca = CA_FILE ? readFileSync(CA_FILE) : undefined;
  const { status, body } = await new Promise((resolve, reject) => {
    const request = (protocol === "https:" ? https : http).get(url, { ca, headers, timeout: TIMEOUT }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", reject);
      response.on("end", () => resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString() }));
    });
    request.on("error", reject);
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
  });
  if (status !== 200) throw new Error(`${host} answered ${status}: ${body}`);
  return body;
}

// What an SDK does; it would keep the token until refresh_in, too.
async function token() {
  const query = new URLSearchParams({ "api-version": "2019-08-01", resource: RESOURCE });
  const body = await get(`${IDENTITY_ENDPOINT}?${query}`, { "X-IDENTITY-HEADER": IDENTITY_HEADER });
  return JSON.parse(body).access_token;
}

try {
  if (!IDENTITY_ENDPOINT) throw new Error("IDENTITY_ENDPOINT is not set");
  if (!API_URL.startsWith("https://")) throw new Error("API_URL must be an https URL: the token goes there");
  console.log(await get(API_URL, { Authorization: `Bearer ${await token()}` }));
} catch (error) {
  console.error(`whoami: ${error.message}`);
  process.exitCode = 1;
}

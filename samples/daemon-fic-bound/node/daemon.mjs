#!/usr/bin/env node
// An app without a user, a daemon app as Entra calls it: it gets a token of its own and calls an API with it.
//
// It holds no credential. The agent on this machine knows which one the identity has, and whether that is bound to the TPM, so this file
// is the same whatever the agent's configuration says. It keeps no token either: the agent does, and renews it in time.
//
//   IDENTITY         name in the agent's configuration
//   RESOURCE         what the token is for, as in https://vault.azure.net
//   API_URL          what to call, https
//   CA_FILE          optional: PEM of the authorities to trust instead of the system's
//   KEYAGENT_SOCKET  optional: the agent's socket
//
// Node 18 or newer, nothing else.

import { readFileSync } from "node:fs";
import http from "node:http";
import https from "node:https";
import { setTimeout as sleep } from "node:timers/promises";

const ATTEMPTS = 5;
const LONGEST_WAIT = 60; // seconds; who asks for more is left alone
const TIMEOUT = 90_000; // milliseconds

// What went wrong. retryAfter is in seconds, and 0 means that asking again will not help.
class Failure extends Error {
  constructor(text, retryAfter = 0) {
    super(text);
    this.retryAfter = retryAfter;
  }
}

// The body of a 200, and a Failure for every other answer. Redirects are not followed: the token is for one API alone.
async function get(who, send) {
  const { status, headers, body } = await new Promise((resolve, reject) => {
    const request = send((response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("error", fail);
      response.on("end", () => resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() }));
    });
    function fail(error) {
      reject(new Failure(`${who}: ${error.message}`));
    }
    request.on("error", fail);
    request.on("timeout", () => request.destroy(new Error("no answer in time")));
    request.end();
  });
  if (status === 200) return body;
  const seconds = headers["retry-after"] ?? "";
  const temporary = (status === 429 || status === 503) && /^\d+$/.test(seconds);
  throw new Failure(`${who} answered ${status}: ${explain(headers["content-type"], body)}`, temporary ? Number(seconds) : 0);
}

// What a problem (RFC 9457) says went wrong and, of the agent's, what to do; any other body as it is.
function explain(contentType, body) {
  if (contentType !== "application/problem+json") return body;
  try {
    const { detail, hint } = JSON.parse(body);
    return [detail, hint].filter(Boolean).join("; ") || body;
  } catch {
    return body;
  }
}

async function token() {
  const socketPath = process.env.KEYAGENT_SOCKET ?? "/run/keyagent/agent.sock";
  const query = new URLSearchParams({ identity: process.env.IDENTITY, resource: process.env.RESOURCE });
  const body = await get(`the agent at ${socketPath}`, (answer) => http.request({ socketPath, path: `/v1/token?${query}`, timeout: TIMEOUT }, answer));
  return JSON.parse(body).access_token;
}

async function callAPI(accessToken) {
  const url = process.env.API_URL;
  if (!url.startsWith("https://")) throw new Failure("API_URL must be an https URL: the token goes there");
  const ca = process.env.CA_FILE ? readFileSync(process.env.CA_FILE) : undefined;
  const headers = { Authorization: `Bearer ${accessToken}` };
  return get("the API", (answer) => https.request(url, { ca, headers, timeout: TIMEOUT }, answer));
}

// Does the work, and again after a while when agent or API say that this will help.
async function run() {
  for (const name of ["IDENTITY", "RESOURCE", "API_URL"]) {
    if (!process.env[name]) throw new Failure(`${name} is not set`);
  }
  for (let attempt = 1; ; attempt++) {
    try {
      return await callAPI(await token());
    } catch (error) {
      const wait = error.retryAfter ?? 0;
      if (wait <= 0 || wait > LONGEST_WAIT || attempt === ATTEMPTS) throw error;
      await sleep(wait * 1000);
    }
  }
}

try {
  console.log(await run());
} catch (error) {
  console.error(`daemon: ${error.message}`);
  process.exitCode = 1;
}

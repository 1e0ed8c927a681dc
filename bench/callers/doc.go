// Package callers measures what programs that want a token have of the agent, beside what they have
// without it: each asks the instance metadata service (IMDS) itself, with Microsoft's library for
// that, azidentity, or has a key of its own in a file. Both meet the same simulated platform.
//
//	herd    60 processes start and want the same token at once
//	outage  the token endpoint is down for ten minutes when tokens are half through their life
//	memory  the agent as it is installed is idle, and then asked by 64 clients for a minute
//	theft   somebody takes all files and the memory away and tries to get tokens with them on another VM
//
// For the herd, the platform answers as slowly as the real one, and its IMDS has the real one's
// limit of 20 requests a second and 5 at a time. The herd finds an agent that has its certificate.
// One request to IMDS asks whose it is, one to Entra is for the token; on a machine that has just
// booted, attestation and issuance are two more.
//
// Where a choice had to be made it is the peer's advantage:
//
//   - azidentity keeps its own pauses and number of retries, and as much time as it needs.
//   - Its token endpoint is behind IMDS, which has a token at hand once one process got one; ours
//     has none at the start.
//   - The agent runs in the same process as the platform and shares its processors.
//
// azidentity's clock is moved by package testing/synctest, with a transport that answers as IMDS
// does.
package callers

// Package callers compares programs that get their tokens from the agent with programs that do
// without it: these ask the instance metadata service (IMDS) themselves, with Microsoft's library
// azidentity, or have a key of their own in a file. Both use the same simulated platform.
//
//	herd    60 processes start and want the same token at once
//	outage  the token endpoint is down for ten minutes when tokens are half through their life
//	memory  the agent as it is installed is idle, and then asked by 64 clients for a minute
//	theft   a thief takes all files and the memory and tries to get tokens with them on another VM
//
// For the herd, the platform answers as slowly as the real one, and its IMDS has the real one's
// limit of 20 requests a second and 5 at a time. The agent has its certificate when the herd
// starts. One request to IMDS asks for the identity that it belongs to, and one to Entra for the
// token; on a machine that has just booted, attestation and issuance are two more.
//
// Where a choice had to be made, it favours the peer:
//
//   - azidentity keeps its own pauses and number of retries, and as much time as it needs.
//   - Its token endpoint is behind IMDS, which has a token at hand once one process got one; ours
//     has none at the start.
//   - The agent runs in the same process as the platform and shares its processors.
//
// azidentity's clock is moved by package testing/synctest, with a transport that answers as IMDS
// does.
package callers

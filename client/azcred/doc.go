// Package azcred lets clients of the Azure SDK for Go get their tokens from the agent on this
// machine: [Credential] is an azcore.TokenCredential.
//
//	agent := client.New(client.Config{})
//	credential, err := azcred.New(agent, nil)
//	vault, err := azsecrets.NewClient("https://example.vault.azure.net", credential, nil)
//
// A program that uses azidentity needs no other code: under `keyagent exec`, or with the endpoints
// of the agent in its environment, its own credentials get their tokens from the agent. This
// package has more: the socket alone, and no secret, identifies the caller; claims challenges are
// met (azidentity passes none on for a managed identity); applications of the agent's configuration
// can be named like managed identities; and a refusal says which rule is missing.
//
// # Invariants
//
//   - A token is returned only if it is of the tenant that was asked for.
//   - It never falls back to another credential: in azidentity's ChainedTokenCredential, the chain
//     ends with its error.
//   - Tokens are kept in memory only, one for each scope.
//
// # Errors
//
// Every error is an [*Error], which azcore does not retry; it wraps those of package client.
//
// It is a module of its own, and imports package client and azcore only.
package azcred

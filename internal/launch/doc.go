// Package launch works out the environment in which an unmodified program finds the agent.
//
// Azure's SDKs look into environment variables for the service that gives them tokens of a managed
// identity, and each family of programs has variables of its own. [Plan] takes what the agent
// answers about its loopback listeners ([wire.Endpoint]) and the environment that a program would
// inherit, and says what to set in it, what to take out, and what the user should know: which
// variables of theirs would make an SDK ask somebody else. It is pure: the caller applies the
// result to a process ([Environment.Apply]) or writes it down ([Environment.Format],
// [Unit.DropIn]).
//
// What always holds:
//   - Of the variables that lead an SDK to a source of managed identities' tokens, the program has
//     those of this package and no others.
//   - An endpoint is taken only if it is plain HTTP on a literal loopback address: everything else
//     would send the secret to somebody.
//   - The secret is in the variables IDENTITY_HEADER and MSI_SECRET only, and prints as [redacted]
//     until it is formatted. No [Note] has it.
//   - A value that a format cannot carry as it is, is an error.
//
// Sources: Azure's SDKs as they were run against a logging double of the services; their order of
// sources is that of the source code of MSAL for Go 1.10, @azure/identity 4.13, azure-identity for
// Python 1.13 and Azure CLI 2.45. systemd.exec(5), "EnvironmentFile=".
package launch

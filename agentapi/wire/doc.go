// Package wire is what travels over the agent's local socket: paths, header and parameter names,
// JSON types and the stable codes of its errors.
//
// It is shared by the server (agentapi) and by programs that call it (client), so that an
// application which wants a token does not link the agent. It holds no behaviour, needs nothing but
// the standard library, and describes the same thing as openapi.yaml in this directory; a test of
// package agentapi keeps the two and the server's route table equal.
//
// # Invariants
//
//   - Numbers are JSON numbers in the native API. Times that a token carries
//     are Unix seconds, other times RFC 3339.
//   - In the IMDS protocol every value is a JSON string, as Azure's Instance
//     Metadata Service answers, because SDKs parse them so.
//   - A [Code] never changes its meaning. Texts may change at any time.
//   - A [Secret] prints as nothing. Only encoding/json and Reveal show it: this
//     package is the one place where a token has to leave the process.
//
// # Sources
//
// RFC 9457 (problem details), RFC 6749 and RFC 6750 (names of token members), Azure Instance
// Metadata Service, "Get a token using HTTP", api-version 2018-02-01 and later (the IMDS protocol).
package wire

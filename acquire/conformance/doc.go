// Package conformance holds the wire protocols between the agent, IMDS and Microsoft Entra as a
// table of cases, and nothing but tests.
//
// Each case is one demand, such as "410 first: seven more attempts, 10 s apart", under the number
// of the section that makes it. It runs the agent's own stack (imds, binding, tlsbridge, entra,
// acquire) against the simulated services under their real host names, and looks at the bytes on
// the wire. Cases about evidence run the whole agent on the complete simulated platform, TPM
// included. Time is virtual: pauses are counted, not waited for.
//
// # Sections
//
//	0     the flow at a glance
//	1     getplatformmetadata: request, answer, Server header, retries, caching, probe
//	2     the certificate request, byte by byte
//	3     attestation: cache, what the issuer checks
//	4     issuecredential: request, answer, certificate, renewal, replacement
//	5     token requests: hosts, forms, headers, answers, error codes, retries, TLS
//	6     application certificates: four variants, assertion, fallback
//	7     federated credentials: audiences, exchange, bound results
//	8     region
//	9     managed identity v1, as a client
//	10    claims and capabilities
//	11    lists of credentials: selection and bound behaviour
//	16    vectors: one case each
//
// A test counts the cases: a section that loses its last one fails.
//
// # Sources
//
// MSI v2 as MSAL.NET speaks it, the clients of Microsoft for Entra (MSAL), RFC 2986, RFC 4055, RFC
// 6749, RFC 7523, RFC 8705.
package conformance

// Package imds is the simulated instance metadata service of one VM: managed identity v2
// (getplatformmetadata, issuecredential), managed identity v1 (oauth2/token), what kind of VM this
// is (instance/compute) and the processor's certificates (THIM).
//
// # What it refuses
// It is strict on purpose: a request that passes here must not be refused in production. Where the
// real service's reaction is known it is imitated; where it is not, the strictest reading of what
// clients are known to send is enforced:
//
//   - requests that were forwarded (X-Forwarded-For), or lack "Metadata: true";
//   - of managed identity v2, those that lack x-ms-client-request-id or cred-api-version=2.0, or
//     have query variables that it does not know;
//   - more than one identity selector, and identities that the VM does not have;
//   - a certificate request that differs in a single ASN.1 type from what the real issuer is known
//     to take, or whose key did not sign it;
//   - an attestation token that is missing, not signed by the attestation service, expired, of
//     another VM, not of a compliant Confidential VM, or about another key than the request's.
//
// Managed identity v1 is older than such strictness, and ignores parameters that it does not know.
// Its tokens come from Entra, and from a cache unless it is told to bypass it.
//
// What the service can be switched to, such as a host without v2, is its [Behaviour].
//
// The wire types are this package's own. They must not be shared with the client, or a misreading
// would be on both sides.
//
// # Sources
//
// Microsoft's "How to use managed identities on an Azure VM to acquire an access token" and "Azure
// Instance Metadata Service"; MSAL.NET 4.87 (ManagedIdentity/V2) and its tests; MSAL Go pull
// request 662 for what the live service refuses. That the issuer looks for the claim "BindingKey"
// is this simulator's assumption about a Linux profile of attestation, which Microsoft has not
// published; see package maa.
package imds

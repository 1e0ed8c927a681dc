// Package binding obtains binding certificates: certificates that a managed
// identity's issuer gives for a key that lives in the TPM (MSI v2).
//
// A [Manager] has one key and keeps one certificate for each identity. To get
// one it asks IMDS for the platform's metadata, has the key attested, signs a
// certificate request in the TPM, and lets IMDS issue. What comes back is
// checked against the request before anything believes it, then written to disk
// so that a restart needs no second issuance.
//
// # Invariants
//
//   - A [Certificate] is one immutable value: certificate, endpoint and ids that
//     belong together. Its key is this manager's key.
//   - A stored certificate is used only while identity, tenant, compute unit and
//     key are the ones it was issued for. IMDS is asked for those first, so a
//     changed identity assignment is noticed.
//   - A certificate is never used later than five minutes before
//     min(notAfter, token_not_after).
//   - From half of its effective life on, a certificate is renewed; if that fails it
//     serves on until the hard stop.
//   - One issuance per identity at a time, however many callers wait.
//   - A torn or foreign state file is moved aside and costs one issuance, never
//     the agent.
//   - Strength is a fact of issuance: Attested is set only when an attestation
//     token was part of the request that IMDS answered.
//
// # On disk
//
// One file per identity in the state directory, binding-NAME.json, mode 0600. It
// holds no secret: a certificate is worthless without the TPM.
//
// # Sources
//
// RFC 2986 (PKCS#10), RFC 4055 (RSASSA-PSS parameters), RFC 4519 (dc), MSI v2 as
// MSAL.NET speaks it.
package binding

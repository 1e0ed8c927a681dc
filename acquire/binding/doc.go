// Package binding obtains binding certificates: certificates that a managed
// identity's issuer issues for a key in the TPM (MSI v2).
//
// A [Manager] has one key and keeps one certificate for each [imds.Selector]: two
// configured identities that select the same managed identity by the same id share
// it. To get one it asks IMDS for the platform's metadata, has the key attested,
// signs a certificate request in the TPM, and has IMDS issue the certificate. The
// answer is checked against the request before it is used, then written to disk so
// that a restart needs no second issuance.
//
// # Life of a certificate
//
//	issued      by [Manager.Certificate], which has none that is usable
//	renewed     by [Manager.Run], at half of its effective life, give or take a tenth
//	rejected    by Entra, reported with [Manager.Replace]: out of use at once, and replaced
//	hard stop   five minutes before min(notAfter, token_not_after): out of use
//
// A renewal that fails is tried again after 1, 2, 4 … 60 minutes, while the
// certificate serves on. Replacements are further and further apart, from 30 seconds
// to 30 minutes; one that no other follows within one more pause brings the pause
// back to 30 seconds. A restart forgets the pause. That is harmless: it costs one
// issuance, as a start without a certificate does anyway, and systemd limits how often
// it restarts the agent.
//
// # Invariants
//
//   - A [Certificate] is one immutable value: certificate, endpoint and ids that
//     belong together. Its key is this manager's key.
//   - A stored certificate is used only while identity, tenant, compute unit and
//     key are the ones it was issued for. IMDS is asked for those first, each
//     time, so a changed identity assignment is noticed.
//   - A certificate is never used later than five minutes before
//     min(notAfter, token_not_after).
//   - A caller never waits for a renewal while there is a usable certificate, and
//     always waits for the issuance under way while there is none.
//   - One issuance per identity at a time, however many callers wait or meet the same
//     rejection.
//   - A rejected certificate is not used again: not from memory, not from disk, not
//     after a restart, and not if IMDS gives it out once more. The rejection
//     is written to disk before another certificate is requested; a kill before that
//     costs one more rejection.
//   - A torn or foreign state file is moved aside and costs one issuance, never
//     the agent. One that cannot be read is neither moved nor written: it may hold a good
//     certificate, or the note of a rejection. It is read again each minute, and what
//     happened meanwhile is written then.
//   - Strength is a fact of issuance: Attested is set only when an attestation
//     token was part of the request that IMDS answered.
//
// # On disk
//
// One file per selector in the state directory, mode 0600: binding-system.json,
// binding-client-GUID.json, binding-object-GUID.json, or binding-resource-HASH.json
// with the first 32 hexadecimal digits of SHA-256 over the resource id in lower case.
// It says which identity it belongs to and which certificate Entra rejected last, and
// holds no secret: a certificate is worthless without the TPM. It is replaced in one step; a
// disk that takes nothing costs an issuance at the next start, if that comes before the
// disk takes something again, and nothing now. What a rotation of the key obtained
// beforehand is moved here at the start; [Supersedes] says which files.
//
// # Sources
//
// RFC 2986 (PKCS#10), RFC 4055 (RSASSA-PSS parameters), RFC 4519 (dc), MSI v2 as
// MSAL.NET speaks it.
package binding

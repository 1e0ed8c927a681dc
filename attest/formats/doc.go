// Package formats writes evidence and the results of verifying it in the forms of others.
//
//	attest.Evidence ──► bundle  our own JSON, the only form that has everything
//	                ──► eat     claims set with the names of RFC 9711: for reading, no evidence
//	                ──► attribute of a certificate request: [Attribute], [ParseRequest]
//	attest.Result   ──► ear          draft-ietf-rats-ear-04, JSON claims set
//	                ──► ear-veraison the older spelling that github.com/veraison/ear reads
//
// Nothing here decides, and nothing here is signed but a request, by its own key: a claims set is
// worth what the channel is worth that it came over. Whoever hands a result on to others signs it,
// as a JWT for example. docs/formats.md says what of each form is standard and what is ours.
//
// # Invariants
//
//   - A result is "affirming" only if the evidence is verified. The trustworthiness vector has a
//     value for what was checked only; no claim is made of the rest.
//   - What a reader finds in a request is compared: the statement for those who know no more must
//     be the one in the bundle, and the request's key the one that it is about.
//   - Evidence is read without trust: a claims set from it says what the machine says.
//
// Sources: RFC 9711; draft-ietf-rats-ear-04 and draft-ietf-rats-ar4si-10; the claims of
// github.com/veraison/ear v1.1.3; draft-ietf-lamps-csr-attestation-29 and
// draft-birkholz-rats-tcg-tpm2-attestation.
package formats

// Package formats writes evidence and the results of verifying it in the forms of others.
//
//	attest.Evidence ──► bundle  our own JSON, the only form that has everything
//	                ──► eat     claims set with the names of RFC 9711: for reading, no evidence
//	                ──► attribute of a certificate request: [Attribute], [ParseRequest]
//	attest.Result   ──► ear          draft-ietf-rats-ear-04, JSON claims set
//	                ──► ear-veraison the older spelling that github.com/veraison/ear reads
//
// Nothing here decides, and nothing here is signed but a request, by its own key: a claims set is
// only as trustworthy as the channel that it came over. A program that hands a result on to others
// signs it, as a JWT for example. docs/formats.md says which parts of each form are standard and
// which are ours.
//
// # Invariants
//
//   - A result is "affirming" only if the evidence is verified. The trustworthiness vector has
//     values only for categories that were checked; it makes no claim about the others.
//   - What a reader finds in a request is compared: the statement for those who know no more must
//     be the one in the bundle, and the request's key the one that it is about.
//   - Evidence is read without trust: a claims set from it says what the machine says.
//
// Sources: RFC 9711; draft-ietf-rats-ear-04 and draft-ietf-rats-ar4si-10; the claims of
// github.com/veraison/ear v1.1.3; draft-ietf-lamps-csr-attestation-29 and
// draft-birkholz-rats-tcg-tpm2-attestation.
package formats

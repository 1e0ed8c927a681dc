// Package tee reads and verifies what the processor signed: today the AMD SEV-SNP attestation report of a Confidential VM.
//
// A report is believed in steps that can be named, because an operator who is refused wants to know which one: its structure
// ([ParseSNPReport]), the certificate chain of the chip's key VCEK up to a root that the verifier brought ([VerifyVCEK]; certificates
// that came with the evidence are candidates, never anchors), that this VCEK belongs to this report's chip and firmware level
// ([CheckIdentity]), and at last the signature ([SNPReport.VerifySignature]). Each step alone proves nothing: a genuine chain for
// another chip is as good as none.
//
// What a genuine report does not say is whose software runs in the guest. Anyone may boot firmware of his own on a genuine
// chip; the launch identity (id_key_digest, measurement) tells Azure's paravisor from it, and is judged by policy in package attest.
//
// Parsing of the report and of AMD's certificate extensions is go-sev-guest's (packages abi and kds). Its verify and validate packages
// are not used: they merge the steps into one answer, tolerate an all-zero chip id, and treat a missing root as a reason to
// use their own.
//
// BUG(tee): Turin chips are refused. Their VCEK has an 8-byte hardware id and further extensions that the parser does not know.
//
// Sources: AMD 56860 (SEV Secure Nested Paging Firmware ABI), table "ATTESTATION_REPORT Structure"; AMD 57230 (VCEK Certificate and KDS
// Interface).
package tee

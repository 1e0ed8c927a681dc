// Package tee reads and verifies what the processor signed: the AMD SEV-SNP attestation report or
// the Intel TDX quote of a Confidential VM.
//
// A report is verified in steps that can be named, because an operator whose evidence is refused
// needs to know which one failed: its structure ([SNPReport.CheckStructure]), the certificate chain
// of the key that signed it up to a root that the verifier brought ([VerifySigner]; certificates
// that came with the evidence are candidates, never anchors), that this key belongs to this
// report's chip and firmware level ([CheckIdentity]), and at last the signature
// ([SNPReport.VerifySignature]). No step proves anything alone: a genuine chain for another chip is
// worthless. The key is the chip's own VCEK or, if the verifier accepts its provider, a VLEK.
//
// A genuine report does not show whose software runs in the guest. Anyone may boot firmware of
// their own on a genuine chip. The launch identity (id_key_digest, measurement) distinguishes
// Azure's paravisor from it; package attest checks it by policy.
//
// The 1184 bytes and AMD's certificate extensions are read here. go-sev-guest, which tests compare
// with, does not know Turin's VCEK, passes unknown versions and reserved fields, merges the steps
// into one answer, and tolerates an all-zero chip id.
//
// A TD quote is verified in such steps, too: structure ([ParseTDQuote]), agreement with the
// TDREPORT that the paravisor keeps ([TDReport.Matches]), chain of the platform's PCK certificate
// ([VerifyPCKChain]), the quoting enclave for whose key the PCK vouches ([TDQuote.VerifyQE],
// [TDQuote.CheckQE]), the signature ([TDQuote.VerifySignature]), and Intel's word on the platform's
// firmware ([TDXCollateral.Verify], [TCBInfo.Evaluate]). All of it is ours, on crypto/x509 and
// crypto/ecdsa, with one time for everything; docs/adr/0028 says why.
//
// Sources: AMD 56860 (SEV Secure Nested Paging Firmware ABI), table "ATTESTATION_REPORT Structure";
// AMD 57230 (VCEK Certificate and KDS Interface); Intel TDX DCAP Quoting Library API (quote
// versions 4 and 5), Intel TDX Module ABI (TDREPORT), Intel SGX PCK Certificate and CRL Profile,
// Intel PCS API version 4 (TCB info, QE identity).
package tee

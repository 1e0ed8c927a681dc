// Package attest is keyagent's evidence: its format, and the one procedure that verifies it.
//
// A machine that holds a binding key in its TPM can prove to a relying party that it does. The
// proof is a chain, and every link is a signature or a hash over exact bytes. On AMD SEV-SNP:
//
//	verifier's nonce ─────────────┬──────────────────────────────┐
//	                              ▼                              ▼
//	binding key's public area ◄─ TPM2_Certify ◄── signs ── AK ── signs ──► TPM2_Quote ─► PCRs
//	                                                       │ public key is
//	                                                       ▼
//	                                 runtime claims (JSON) ──SHA-256──► report_data
//	                                                                     │ in
//	                                 AMD root ─► VCEK ── signs ── SNP attestation report
//	                                                                     │ and in it
//	                                                  launch identity: this is Azure's paravisor
//
// [Evidence] is what the machine sends; [Parse] reads it strictly and takes nothing in it as
// proven. [Verify] makes every check below, in this order, and returns a [Result]. Evidence is
// verified only if Result.Err returns nil: no check has failed, and every check that the [Policy]
// and the [Floor] require has passed. A check whose input is missing is not applicable, which is
// not passed.
//
// Each kind of hardware, a platform, has its checks, its part of the policy and its part of the
// evidence in a file of its own; platforms.go says what a platform is and lists them.
//
// # The procedure
//
//  1. bundle.format: parts within their size limits, the hardware report given in one form only
//  2. bundle.nonce: the challenge repeated in the bundle, if any, is the verifier's (for a clear
//     message; checks 32 and 37 prove it)
//  3. hcl.structure: the wrapper's header and lengths are consistent, padding is zero
//  4. hcl.binding: the hardware report's report_data is SHA-256 of the claims, and 32 zero bytes
//  5. hcl.claims: strict JSON with exactly one usable attestation key
//  6. hcl.user-data: the guest's own input is what the policy expects
//  7. tdx.structure: quote version 4 or 5, ECDSA P-256, Intel's quoting enclave, right lengths
//  8. tdx.report: the TDREPORT that the claims are held against is whole, and says what the quote
//     says
//  9. tdx.chain: the PCK certificate ends in a root of the verifier, at the verifier's time
//  10. tdx.qe: a quoting enclave of Intel's on that platform vouches for the attestation key
//  11. tdx.signature: the quote is signed with the attestation key
//  12. tdx.collateral: Intel's statements on the platform's firmware and its revocation lists are
//     genuine, about this platform and valid at the verifier's time; no certificate is revoked
//  13. tdx.tcb: the firmware is at a level that Intel calls up to date, or that the policy accepts
//  14. tdx.policy: no debugging, no migration, and the policy's further conditions
//  15. tdx.launch: mrtd on the policy's list
//  16. snp.structure: report version 2 to 5, reserved bits and bytes as they must be, ECDSA P-384,
//     signed by a VCEK, or by a VLEK if the policy names its provider
//  17. snp.chain: the VCEK ends in a root of the verifier, of its own product line, at the
//     verifier's time
//  18. snp.identity: the VCEK is that of the report's chip and reported TCB
//  19. snp.signature: the report is signed by the VCEK
//  20. snp.policy: no debugging, no migration agent, VMPL 0, nothing of unknown meaning, and what
//     else the policy asks
//  21. snp.tcb: reported ≤ committed ≤ current, and at least the policy's minimum
//  22. snp.launch: id_key_digest or measurement on the policy's list
//  23. snp.revocation: neither ASK nor VCEK on AMD's list, if one is supplied
//  24. ak.public: the attestation key sent along is the one in the claims
//  25. ak.certificate: issued for this key by Azure's virtual TPM CA, for a Confidential VM
//  26. key.public: an RSA signing key that its TPM made and will not let go
//  27. key.certify.structure: exactly one TPM-made certify statement
//  28. key.certify.signature: signed by the attestation key of the claims
//  29. key.certify.signer: the signer's qualified name is that of the attestation key
//  30. key.certify.name: it is about the public area shown
//  31. key.certify.location: not in the NULL hierarchy
//  32. key.certify.nonce: made for this challenge, protocol and audience; fails if the verifier
//     gave no nonce
//  33. key.match: the public key that the caller asks about is this key; if the caller asks, checks
//     26 to 33 and 40 are required, whatever the policy says
//  34. quote.structure, 35. quote.signature, 36. quote.signer, 37. quote.nonce: as for the certify
//  38. quote.selection: the SHA-256 bank, and at least the policy's PCRs
//  39. quote.digest: the PCR values listed are those quoted, no more and no fewer
//  40. quote.coherence: quote and certify are from one boot, close together
//  41. eventlog.replay: the log of the boot gives the quoted values of PCRs 0 to 7
//  42. eventlog.policy: what the log shows is what the policy asks
//  43. policy.tee: the policy accepts what vouches for the machine; without a TEE only if it names
//     that kind, and beside a TEE not with the AK certificate of a Confidential VM
//  44. policy.secure-boot, 45. policy.vm-id: the VM's configuration is what the policy asks
//  46. policy.pcr: quoted PCRs have values of the policy's lists
//  47. policy.age: the verifier gave out its nonce no longer ago than the policy says
//
// # Invariants
//
//   - What an event log says counts for registers that it replays to, and only as far as their
//     digests cover it; package eventlog says what that leaves out.
//   - Pure: no network, no clock, no device. Time and trust anchors are arguments; certificates in
//     evidence are never anchors.
//   - The attestation key comes from hashed claims only. Fields of the evidence that name it are
//     compared with it, not used.
//   - Every check is made and reported. None makes up for an earlier failure, and none is skipped
//     because an earlier one failed, except where its input could then not be read.
//   - Parts that are not wholly understood are refused: trailing bytes, unknown members,
//     unsupported algorithms.
//   - Evidence of an unknown or unsupported platform is held to the checks of all supported ones.
//     Evidence without a TEE is too, unless the policy names its [Kind]; the result then says that
//     no TEE vouches for the machine.
//
// Verified evidence does not show which tenant owns the machine, what software runs in it now, or
// that the processor was not attacked by someone with physical access to the host. That the
// attestation key is restricted is known only because snp.launch shows whose paravisor made it.
//
// Errors: [CheckError] names the check.
//
// Sources: TPM 2.0 Library, parts 1 to 3; AMD 56860 and 57230; the paravisor's formats as listed in
// package hcl; the event log's as listed in package eventlog; Microsoft's virtual TPM certificate
// hierarchy as observed, see testdata/azure-cvm.
package attest

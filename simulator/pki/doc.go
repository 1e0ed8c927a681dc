// Package pki makes the certificate authorities of the simulated Azure and what they sign: the AMD
// chain (ARK, ASK, VCEK) with the attestation reports of one processor, an Intel platform with its
// quotes and Intel's word on it, the CA of virtual TPMs with
// the AK certificate, the issuer of managed identities' binding certificates, an authority for
// applications' certificates, and the CA of the loopback servers.
//
// # Invariants
//
//   - Every authority is made afresh by its New function and lives in memory only. Nothing here
//     chains to a root that anyone trusts, and no launch identity is one of Microsoft's: evidence
//     of the simulator must never pass as evidence of Azure.
//   - Reports and certificates have the form of the real ones, byte order and string types
//     included; where it differs, the name that differs says so.
//
// The RSA keys of ARK and ASK have 2048 bits where AMD's have 4096, so that a platform starts in
// about a second.
//
// # Sources
//
// AMD 56860 (SEV Secure Nested Paging Firmware ABI), table "ATTESTATION_REPORT Structure"; AMD
// 57230 (VCEK Certificate and KDS Interface), certificate extensions; Intel TDX Module ABI and DCAP
// Quoting Library API, Intel PCS API version 4; observed HCL reports and AK
// certificates of Azure Confidential VMs, 2023 to 2026. The binding certificate's token_not_after
// extension is known from a pull request to MSAL.NET (#6017) only.
package pki

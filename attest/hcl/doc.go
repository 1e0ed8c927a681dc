// Package hcl reads the report that Azure's paravisor (the "host compatibility layer", HCL; its
// open form is OpenHCL) leaves in NV index 0x01400001 of a Confidential VM's virtual TPM.
//
// The report wraps two things: a hardware report (AMD SEV-SNP ATTESTATION_REPORT or Intel TDX
// TDREPORT) and a JSON document, the runtime claims, whose SHA-256 is the hardware report's
// report_data. The claims name the public half of the TPM's attestation key. That hash is the only
// link between the TPM and the processor, so:
//
//   - the claims are kept and hashed as the exact bytes that were read; they are parsed, never
//     written again;
//   - the wrapper's header is covered by no signature. It only says where things are, and every
//     length in it is checked against the buffer before it is used;
//   - the claims can be read in one way only: duplicate members, a second HCLAkPub and names that
//     differ in case are refused.
//
// The package parses and compares. Package tee verifies the hardware report, and package attest
// gives the verdict.
//
// Sources: the layout as OpenHCL writes it (microsoft/openvmm, openhcl_attestation_protocol),
// confirmed on captured reports of 2022 to 2026, see testdata/azure-cvm.
package hcl

// Package collect gathers attestation evidence on the machine that it is about: an Azure
// Confidential VM with a virtual TPM.
//
// [Collector.Collect] asks the TPM to certify the binding key and to quote the PCRs for a
// verifier's challenge, reads the paravisor's report from NV, fetches what vouches for that report,
// and puts them together. On AMD SEV-SNP that is the certificate of the processor's key, from the
// host. On Intel TDX it is a quote, for which the host exchanges the TDREPORT, and Intel's
// collateral, from Intel's service, a cache of it, or a directory. What always holds:
//
//   - Nothing that comes from outside the TPM is trusted because of its origin: the host's metadata
//     service is plain HTTP. The evidence is verified here with the procedure that its receiver
//     uses, nonce included, before it is sent. Evidence that this machine would refuse is never
//     sent.
//   - The attestation key at its well-known handle must be the one in the paravisor's report. Root
//     in the guest can put another key there until the next boot; that is reported as such, and no
//     evidence is sent.
//   - The report is read once, upward from offset 0, since each read at offset 0 may make a new
//     one. One that is to carry a digest of the challenge is read again until it does, within ten
//     seconds: what it says counts, and never the time that has passed.
//
// [Collector.NewTransportKey] makes the short-lived decryption key to which an attestation service
// encrypts its answer.
//
// Errors: [ErrNoReport] if this is no Confidential VM; [*HostError] if the host's metadata service
// fails, with whether to try again later; [*attest.CheckError] if the evidence does not verify; all
// others are the TPM's.
//
// Sources: the layout of Azure's virtual TPM as OpenHCL makes it (microsoft/openvmm, crate tpm);
// THIM and the exchange of TDREPORTs as Microsoft's attestation clients call them
// (Azure/azure-guest-attestation-sdk); Intel PCS API version 4.
package collect

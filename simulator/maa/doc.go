// Package maa is a simulated instance of Microsoft Azure Attestation that really verifies: POST
// /attest/AzureGuest takes a Confidential VM's evidence, verifies it with attest.Verify under the
// simulated AMD and virtual-TPM roots, and answers with an attestation token that only the VM's TPM
// can open.
//
// # What it demands
//
// Besides the shape of the request (AttestationProtocolVersion 2.0): the whole procedure of package
// attest with its default policy, an AK certificate, the launch identity of this platform and of no
// other, a transport key (EncKeyPub) in the same TPM, and a nonce that was not used before. A
// refusal is a 400 in the service's form; its details list every check that failed, its journal
// entry every check there is.
//
// # Assumptions
//
// Microsoft has not published a profile of this service for signing keys on Linux. The simulator
// assumes one: ClientPayload carries the nonce and, as "key-public" (TPMT_PUBLIC), "key-certify"
// (TPMS_ATTEST) and "key-certify-signature" (TPMT_SIGNATURE), the binding key with the attestation
// key's statement about it; the extraData of statement and quote are those of attest.Challenge, the
// audience being this instance's base URL. After the statement has been verified, and only then,
// x-ms-runtime.keys of the token lists the key under the kid "BindingKey".
//
// The event log may be empty: what the real service reads in it (secure boot state, debug switches)
// is then not in the token.
//
// # Sources
//
// The request and response formats of Microsoft's and Edgeless Systems' public clients of
// AzureGuest (API version 2020-10-01); the REST specification of Azure Attestation for errors and
// metadata; a public sample token of 2022 for the claims.
package maa

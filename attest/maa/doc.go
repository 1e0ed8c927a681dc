// Package maa asks Microsoft Azure Attestation (MAA) for a token about this Confidential VM: POST
// {endpoint}/attest/AzureGuest.
//
// The service is shown the evidence of package attest in its own shape: the quote with its PCRs,
// the attestation key with its certificate, the hardware report with the claims, and a decryption
// key that the attestation key has certified. It answers with a JWT that is encrypted to that key,
// so that only this TPM can open it:
//
//	{"token": base64url of {"EncryptedInnerKey", "EncryptionParams", "AuthenticationData", "Jwt"}}
//	EncryptedInnerKey ── RSAES-PKCS1-v1_5, inside the TPM ──► AES key
//	Jwt ‖ AuthenticationData ── AES-GCM, additional data "Transport Key" ──► JWT
//
// MAA knows nothing of a signing key in the TPM. The binding key's certify statement is therefore
// sent in ClientPayload, which MAA repeats in the token without verifying it: "nonce", "key-public"
// (TPMT_PUBLIC), "key-certify" (TPMS_ATTEST) and "key-certify-signature" (TPMT_SIGNATURE). A party
// that trusts the token for the attestation key can verify the statement with it.
//
// What always holds:
//
//   - Evidence goes to https URLs of allowed hosts only; redirects are refused, answers are limited
//     in size.
//   - Every fault of an envelope that shows after the TPM has been asked gives the same error,
//     [ErrNotOpened], with the same text, so that the TPM is no padding oracle.
//   - The token is not validated here: its relying party is the issuer of credentials, which has
//     trust anchors of its own. It is read only to refuse an answer to another request (nonce,
//     attestation key) and to learn when it expires.
//
// Errors: [*Error] for the service's refusals and failures, with Temporary and Refuses;
// [ErrNotOpened]; [ErrWrongToken].
//
// Sources: Azure/confidential-computing-cvm-guest-attestation, Azure/azure-guest-attestation-sdk
// and edgelesssys/go-azguestattestation for request and envelope; Azure/azure-rest-api-specs,
// Microsoft.Attestation, for the errors.
package maa

package collect

import "github.com/google/go-tpm/tpm2"

// HandleAK is where Azure keeps the attestation key of a Confidential VM: RSA-2048, restricted,
// RSASSA with SHA-256, a primary of the endorsement hierarchy, empty password.
const HandleAK tpm2.TPMHandle = 0x81000003

// NV indices of an Azure Confidential VM.
const (
	NVHCLReport     tpm2.TPMHandle = 0x01400001 // report of the paravisor, 2600 bytes as a rule, zero padded
	NVUserData      tpm2.TPMHandle = 0x01400002 // 64 bytes that the next report will carry; the guest makes it
	NVAKCertificate tpm2.TPMHandle = 0x01C101D0 // DER certificate of the key at HandleAK, perhaps zero padded
)

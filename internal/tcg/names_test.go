package tcg_test

import (
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// The numbers are those of go-tpm, which has them from the same registry by itself.
func TestNumbersHaveTheNamesOfTheRegistry(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ got, want string }{
		{tcg.Algorithm(uint16(tpm2.TPMAlgRSA)), "TPM_ALG_RSA (0x0001)"},
		{tcg.Algorithm(uint16(tpm2.TPMAlgSHA256)), "TPM_ALG_SHA256 (0x000b)"},
		{tcg.Algorithm(uint16(tpm2.TPMAlgKeyedHash)), "TPM_ALG_KEYEDHASH (0x0008)"},
		{tcg.Algorithm(uint16(tpm2.TPMAlgRSAPSS)), "TPM_ALG_RSAPSS (0x0016)"},
		{tcg.Algorithm(uint16(tpm2.TPMAlgECDAA)), "TPM_ALG_ECDAA (0x001a)"},
		{tcg.Algorithm(0x7777), "0x7777 (unknown)"},
		{tcg.Bank(uint16(tpm2.TPMAlgSHA1)), "sha1"},
		{tcg.Bank(uint16(tpm2.TPMAlgSHA256)), "sha256"},
		{tcg.Bank(uint16(tpm2.TPMAlgSM3256)), "sm3_256"},
		{tcg.Bank(uint16(tpm2.TPMAlgSHA3384)), "sha3_384"},
		{tcg.Bank(0x7777), "0x7777 (unknown)"},
		{tcg.Curve(uint16(tpm2.TPMECCNistP521)), "TPM_ECC_NIST_P521 (0x0005)"},
		{tcg.Curve(uint16(tpm2.TPMECCBNP256)), "TPM_ECC_BN_P256 (0x0010)"},
		{tcg.Structure(uint16(tpm2.TPMSTAttestQuote)), "TPM_ST_ATTEST_QUOTE (0x8018)"},
		{tcg.Structure(0x4854), "0x4854 (unknown)"},
		{tcg.Command(uint32(tpm2.TPMCCPolicyPCR)), "TPM2_PolicyPCR (0x17f)"},
		{tcg.Command(uint32(tpm2.TPMCCPolicySecret)), "TPM2_PolicySecret (0x151)"},
		{tcg.Command(uint32(tpm2.TPMCCPolicyNV)), "TPM2_PolicyNV (0x149)"},
		{tcg.Command(uint32(tpm2.TPMCCGetCapability)), "TPM2_GetCapability (0x17a)"},
		{tcg.Command(uint32(tpm2.TPMCCReadClock)), "TPM2_ReadClock (0x181)"},
		{tcg.Command(0x1), "0x001 (unknown)"},
		{tcg.Capability(uint32(tpm2.TPMCapPCRs)), "TPM_CAP_PCRS (0x5)"},
		{tcg.Handle(uint32(tpm2.TPMRHOwner)), "TPM_RH_OWNER (0x40000001)"},
		{tcg.Handle(uint32(tpm2.TPMRHEndorsement)), "TPM_RH_ENDORSEMENT (0x4000000b)"},
		{tcg.Handle(0x81000001), "persistent handle 0x81000001"},
		{tcg.Handle(0x01400001), "NV index 0x01400001"},
		{tcg.Handle(0x40000099), "permanent handle 0x40000099"},
		{tcg.Handle(0xff000000), "0xff000000 (unknown)"},
		{tcg.Attributes(0x00040472), "fixedTPM|fixedParent|sensitiveDataOrigin|userWithAuth|noDA|sign (0x00040472)"},
		{tcg.Attributes(1 << 31), "bit 31 (0x80000000)"},
		{tcg.Attributes(0), "none (0x00000000)"},
	} {
		if tt.got != tt.want {
			t.Errorf("got %q, want %q", tt.got, tt.want)
		}
	}
}

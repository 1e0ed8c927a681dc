package pki

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"strings"
)

// Layout of the HCL report, in bytes; integers are little-endian.
const (
	hclReportSize     = 2600 // of the NV index: unused bytes are zero
	hclDataOffset     = 1216
	hclClaimsOffset   = 1236
	hclDataHeaderSize = 20
	userDataSize      = 64
)

// RuntimeClaims is what the paravisor says about the VM, and has the processor vouch for.
type RuntimeClaims struct {
	AK       *rsa.PublicKey // the TPM's attestation key
	EK       *rsa.PublicKey // its endorsement key; nil leaves it out, as the oldest paravisors did
	VMID     string         // vmUniqueId, a GUID
	UserData []byte         // the guest's 64 bytes; shorter input is padded with zeros
}

// Encode writes the claims as the paravisor does: these members, in this order, without white
// space.
func (c RuntimeClaims) Encode() ([]byte, error) {
	if len(c.UserData) > userDataSize {
		return nil, fmt.Errorf("user data of %d bytes, want at most %d", len(c.UserData), userDataSize)
	}
	type jwk struct {
		KeyID    string   `json:"kid"`
		KeyOps   []string `json:"key_ops"`
		KeyType  string   `json:"kty"`
		Exponent string   `json:"e"`
		Modulus  string   `json:"n"`
	}
	rsaJWK := func(id, operation string, key *rsa.PublicKey) jwk {
		return jwk{
			id, []string{operation}, "RSA",
			base64.RawURLEncoding.EncodeToString(big.NewInt(int64(key.E)).Bytes()),
			base64.RawURLEncoding.EncodeToString(key.N.Bytes()),
		}
	}
	type configuration struct {
		Console       bool   `json:"console-enabled"`
		RootThumb     string `json:"root-cert-thumbprint"`
		SecureBoot    bool   `json:"secure-boot"`
		TPM           bool   `json:"tpm-enabled"`
		TPMPersisted  bool   `json:"tpm-persisted"`
		FilteredVPCI  bool   `json:"filtered-vpci-devices-allowed"`
		VMUniqueIdent string `json:"vmUniqueId"`
	}
	doc := struct {
		Keys          []jwk         `json:"keys"`
		Configuration configuration `json:"vm-configuration"`
		UserData      string        `json:"user-data"`
	}{
		Keys:          []jwk{rsaJWK("HCLAkPub", "sign", c.AK)},
		Configuration: configuration{Console: true, SecureBoot: true, TPM: true, TPMPersisted: true, VMUniqueIdent: c.VMID},
	}
	if c.EK != nil {
		doc.Keys = append(doc.Keys, rsaJWK("HCLEkPub", "encrypt", c.EK))
	}
	userData := make([]byte, userDataSize)
	copy(userData, c.UserData)
	doc.UserData = strings.ToUpper(hex.EncodeToString(userData))
	return json.Marshal(doc)
}

// ReportData is the report_data that binds claims: their SHA-256 and 32 zero bytes.
func ReportData(claims []byte) (out [64]byte) {
	sum := sha256.Sum256(claims)
	copy(out[:], sum[:])
	return out
}

// HCLReport wraps an SNP report and runtime claims as NV index 0x01400001 holds them.
func HCLReport(report, claims []byte) ([]byte, error) {
	if len(report) != snpReportSize && len(report) != tdReportSize || hclClaimsOffset+len(claims) > hclReportSize {
		return nil, fmt.Errorf("a hardware report of %d bytes and claims of %d do not fit an HCL report of %d", len(report), len(claims), hclReportSize)
	}
	b := make([]byte, hclReportSize)
	le := binary.LittleEndian
	copy(b, "HCLA")
	le.PutUint32(b[4:], 2) // header version
	le.PutUint32(b[8:], uint32(hclClaimsOffset+len(claims)))
	le.PutUint32(b[12:], 2) // request type
	copy(b[32:], report)
	le.PutUint32(b[hclDataOffset:], uint32(hclDataHeaderSize+len(claims)))
	le.PutUint32(b[hclDataOffset+4:], 1) // request data version
	le.PutUint32(b[hclDataOffset+8:], reportType(report))
	le.PutUint32(b[hclDataOffset+12:], 1) // hash type: SHA-256
	le.PutUint32(b[hclDataOffset+16:], uint32(len(claims)))
	copy(b[hclClaimsOffset:], claims)
	return b, nil
}

// reportType is 2 for an SNP report and 4 for a TDREPORT.
func reportType(report []byte) uint32 {
	if len(report) == tdReportSize {
		return 4
	}
	return 2
}

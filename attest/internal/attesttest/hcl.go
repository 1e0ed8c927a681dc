package attesttest

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
)

// VMID is the id of the machine.
const VMID = "26f8bc30-774e-4290-8e7a-535f3b672aee"

// Claims writes runtime claims as the paravisor does.
func Claims(ak *rsa.PublicKey) []byte {
	modulus := base64.RawURLEncoding.EncodeToString(ak.N.Bytes())
	return fmt.Appendf(nil, `{"keys":[{"kid":"HCLAkPub","key_ops":["sign"],"kty":"RSA","e":"AQAB","n":%q}],`+
		`"vm-configuration":{"console-enabled":true,"secure-boot":true,"tpm-enabled":true,"tpm-persisted":true,"vmUniqueId":%q},`+
		`"user-data":%q}`, modulus, VMID, strings.Repeat("00", 64))
}

// ReportData is the report_data that binds claims.
func ReportData(claims []byte) []byte {
	sum := sha256.Sum256(claims)
	return append(sum[:], make([]byte, 32)...)
}

// Wrap makes the content of NV index 0x01400001 from a hardware report and claims.
func Wrap(reportType uint32, hardware, claims []byte) []byte {
	const size, dataAt, claimsAt = 2600, 1216, 1236
	b := make([]byte, size)
	le := binary.LittleEndian
	copy(b, "HCLA")
	le.PutUint32(b[4:], 2)
	le.PutUint32(b[8:], uint32(claimsAt+len(claims)))
	le.PutUint32(b[12:], 2)
	copy(b[32:dataAt], hardware)
	le.PutUint32(b[dataAt:], uint32(20+len(claims)))
	le.PutUint32(b[dataAt+4:], 1)
	le.PutUint32(b[dataAt+8:], reportType)
	le.PutUint32(b[dataAt+12:], 1)
	le.PutUint32(b[dataAt+16:], uint32(len(claims)))
	copy(b[claimsAt:], claims)
	return b
}

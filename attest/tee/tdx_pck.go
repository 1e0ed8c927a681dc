package tee

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Components is how many security versions of a platform Intel counts, beside the PCE's.
const Components = 16

// PCK is what a PCK certificate says about the platform: the certificate of the key with which it
// certifies quoting enclaves (Intel SGX PCK Certificate and Certificate Revocation List Profile
// Specification).
type PCK struct {
	Key        *ecdsa.PublicKey
	FMSPC      [6]byte // family, model, stepping, platform type and custom SKU
	PCEID      [2]byte
	Components [Components]uint8 // SGX TCB component security versions, 1 to 16
	PCESVN     uint16
}

// oidSGX is the extension of a PCK certificate; what it holds is numbered below it.
func oidSGX() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}
}

// Numbers below oidSGX.
const (
	sgxTCB   = 2
	sgxPCEID = 3
	sgxFMSPC = 4
)

// Numbers below oidSGX and sgxTCB, where 1 to 16 are the components.
const (
	tcbPCESVN = Components + 1
	tcbCPUSVN = Components + 2
)

// ParsePCK reads a PCK certificate. It says nothing about the certificate's issuer, see
// [VerifyPCKChain].
func ParsePCK(cert *x509.Certificate) (*PCK, error) {
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("PCK certificate: its key is not on the curve P-256")
	}
	i := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(oidSGX()) })
	if i < 0 {
		return nil, errors.New("PCK certificate: Intel's extension is missing")
	}
	p := &PCK{Key: key}
	if err := p.read(cert.Extensions[i].Value); err != nil {
		return nil, fmt.Errorf("PCK certificate: %w", err)
	}
	return p, nil
}

// read reads the extension's value, a sequence of pairs of object identifier and value, and wants
// each of what a platform's TCB needs exactly once.
func (p *PCK) read(value []byte) error {
	seen, err := pairs(value, oidSGX(), func(number int, in *cryptobyte.String) bool {
		switch number {
		case sgxTCB:
			return p.readTCB(in)
		case sgxPCEID:
			return octetString(in, p.PCEID[:])
		case sgxFMSPC:
			return octetString(in, p.FMSPC[:])
		}
		return number > 0 && in.ReadAnyASN1(new(cryptobyte.String), new(cbasn1.Tag)) // PPID, kind of platform and the like
	})
	if err != nil {
		return err
	}
	for _, need := range []int{sgxTCB, sgxPCEID, sgxFMSPC} {
		if !seen[need] {
			return fmt.Errorf("%v.%d is missing in Intel's extension", oidSGX(), need)
		}
	}
	return nil
}

func (p *PCK) readTCB(in *cryptobyte.String) bool {
	var element cryptobyte.String
	if !in.ReadASN1Element(&element, cbasn1.SEQUENCE) {
		return false
	}
	seen, err := pairs(element, append(oidSGX(), sgxTCB), func(number int, in *cryptobyte.String) bool {
		switch {
		case number >= 1 && number <= Components:
			return in.ReadASN1Integer(&p.Components[number-1])
		case number == tcbPCESVN:
			return in.ReadASN1Integer(&p.PCESVN)
		}
		return number == tcbCPUSVN && octetString(in, make([]byte, Components))
	})
	return err == nil && len(seen) == tcbCPUSVN
}

// pairs reads a sequence of pairs, whose identifiers are one number below base, each once. It
// returns the numbers.
func pairs(der []byte, base asn1.ObjectIdentifier, value func(number int, in *cryptobyte.String) bool) (map[int]bool, error) {
	malformed := errors.New("extension of Intel's is malformed")
	in, list := cryptobyte.String(der), cryptobyte.String(nil)
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, malformed
	}
	seen := map[int]bool{}
	for !list.Empty() {
		var pair cryptobyte.String
		var oid asn1.ObjectIdentifier
		if !list.ReadASN1(&pair, cbasn1.SEQUENCE) || !pair.ReadASN1ObjectIdentifier(&oid) {
			return nil, malformed
		}
		if len(oid) != len(base)+1 || !oid[:len(base)].Equal(base) || seen[oid[len(base)]] {
			return nil, fmt.Errorf("extension of Intel's: %v occurs twice or is none of its members", oid)
		}
		seen[oid[len(base)]] = true
		if !value(oid[len(base)], &pair) || !pair.Empty() {
			return nil, fmt.Errorf("extension of Intel's: %v cannot be read", oid)
		}
	}
	return seen, nil
}

// octetString reads exactly len(out) bytes.
func octetString(in *cryptobyte.String, out []byte) bool {
	var s cryptobyte.String
	return in.ReadASN1(&s, cbasn1.OCTET_STRING) && copy(out, s) == len(out) && len(s) == len(out)
}

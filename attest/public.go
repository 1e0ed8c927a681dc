package attest

import (
	"crypto/rsa"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"golang.org/x/crypto/cryptobyte"

	"github.com/keyagent/keyagent/internal/tcg"
)

// TPM constants used here (TPM 2.0 Part 2: TPM_ALG_ID, TPM_ST, TPM_RH, TPM_GENERATED_VALUE).
const (
	algRSA    = 0x0001
	algSHA256 = 0x000B
	algSHA384 = 0x000C
	algNull   = 0x0010
	algRSASSA = 0x0014

	hierarchyOwner       = 0x40000001
	hierarchyNull        = 0x40000007
	hierarchyEndorsement = 0x4000000B

	defaultExponent = 65537
	akAttributes    = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrUserWithAuth | attrNoDA | attrRestricted | attrSign
)

// publicArea is a parsed TPMT_PUBLIC of an RSA key without symmetric algorithm (TPM 2.0 Part 2,
// 12.2.4).
type publicArea struct {
	nameAlg    uint16
	attributes uint32
	authPolicy []byte
	scheme     uint16 // TPM_ALG_NULL or TPM_ALG_RSASSA
	schemeHash uint16 // only with RSASSA
	keyBits    uint16
	key        *rsa.PublicKey
	raw        []byte
}

// parsePublic reads exactly one TPMT_PUBLIC. It knows RSA keys with SHA-256 Names only; every other
// key is refused as unsupported.
func parsePublic(b []byte) (*publicArea, error) {
	var (
		s                         = cryptobyte.String(b)
		p                         = &publicArea{raw: b}
		typ, symmetric            uint16
		policy, modulus           cryptobyte.String
		exponent                  uint32
		errMalformed, unsupported = errors.New("public area is malformed"), errors.New("public area of an unsupported kind")
	)
	if !s.ReadUint16(&typ) || !s.ReadUint16(&p.nameAlg) {
		return nil, errMalformed
	}
	if typ != algRSA || p.nameAlg != algSHA256 {
		return nil, fmt.Errorf("%w: type %s with name algorithm %s, want RSA and SHA-256", unsupported, tcg.Algorithm(typ), tcg.Algorithm(p.nameAlg))
	}
	if !s.ReadUint32(&p.attributes) || !s.ReadUint16LengthPrefixed(&policy) || !s.ReadUint16(&symmetric) || !s.ReadUint16(&p.scheme) {
		return nil, errMalformed
	}
	if symmetric != algNull || (p.scheme != algNull && p.scheme != algRSASSA) {
		return nil, fmt.Errorf("%w: symmetric algorithm %s, scheme %s", unsupported, tcg.Algorithm(symmetric), tcg.Algorithm(p.scheme))
	}
	if p.scheme == algRSASSA && !s.ReadUint16(&p.schemeHash) {
		return nil, errMalformed
	}
	if !s.ReadUint16(&p.keyBits) || !s.ReadUint32(&exponent) || !s.ReadUint16LengthPrefixed(&modulus) || !s.Empty() {
		return nil, errMalformed
	}
	p.authPolicy = policy
	return p, p.readKey(exponent, modulus)
}

func (p *publicArea) readKey(exponent uint32, modulus []byte) error {
	if exponent != 0 && exponent != defaultExponent {
		return fmt.Errorf("RSA exponent %d, want 65537", exponent)
	}
	if p.keyBits < 2048 || p.keyBits > 4096 || len(modulus) != int(p.keyBits)/8 {
		return fmt.Errorf("RSA key of %d bits with a modulus of %d bytes, want 2048 to 4096 bits", p.keyBits, len(modulus))
	}
	if modulus[0]&0x80 == 0 || modulus[len(modulus)-1]&1 == 0 {
		return fmt.Errorf("RSA modulus is not an odd number of %d bits", p.keyBits)
	}
	p.key = &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: defaultExponent}
	return nil
}

// name is the object's Name: the name algorithm and the digest of the public area (TPM 2.0 Part 1,
// 14).
func (p *publicArea) name() []byte { return nameOf(p.raw) }

func nameOf(data ...[]byte) []byte {
	h := sha256.New()
	for _, d := range data {
		h.Write(d)
	}
	return h.Sum([]byte{algSHA256 >> 8, algSHA256 & 0xff})
}

// primaryName is the Qualified Name of a primary object called name: a hierarchy's own Qualified
// Name is its handle (TPM 2.0 Part 1, 26.5).
func primaryName(hierarchy uint32, name []byte) []byte {
	return nameOf(binary.BigEndian.AppendUint32(nil, hierarchy), name)
}

// AKPublicArea rebuilds the TPMT_PUBLIC of a Confidential VM's attestation key from its modulus of
// 256 bytes: the paravisor makes the key from one template (RSA-2048, restricted, RSASSA with
// SHA-256, no policy), so that the claims need to name no more.
func AKPublicArea(modulus []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint16(algRSA)
	b.AddUint16(algSHA256)
	b.AddUint32(akAttributes)
	b.AddUint16(0) // authPolicy
	b.AddUint16(algNull)
	b.AddUint16(algRSASSA)
	b.AddUint16(algSHA256)
	b.AddUint16(2048)
	b.AddUint32(0) // exponent: the default
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(modulus) })
	return b.BytesOrPanic()
}

// newAK describes the key of a public area as an attestation key in the endorsement hierarchy.
func newAK(p *publicArea) *AK {
	return &AK{Public: p.key, Name: p.name(), QualifiedName: primaryName(hierarchyEndorsement, p.name())}
}

// ParseAK reads the TPMT_PUBLIC of an attestation key. The key must be one that a TPM lets sign
// nothing but its own statements: fixed to the TPM, restricted, signing only, RSASSA with SHA-256.
func ParseAK(public []byte) (*AK, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	const want = attrFixedTPM | attrFixedParent | attrSensitiveDataOrigin | attrRestricted | attrSign
	if p.attributes&want != want || p.attributes&attrDecrypt != 0 {
		return nil, fmt.Errorf("attributes %s are not those of an attestation key", tcg.Attributes(p.attributes))
	}
	if p.scheme != algRSASSA || p.schemeHash != algSHA256 {
		return nil, errors.New("attestation key does not sign with RSASSA and SHA-256")
	}
	return newAK(p), nil
}

// KeyName computes the Name of the object with this TPMT_PUBLIC, whose name algorithm must be
// SHA-256.
func KeyName(public []byte) ([]byte, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	return p.name(), nil
}

// ParseKey returns the public key of a TPMT_PUBLIC with RSA. That a TPM has the private half is for
// [Verify] to say.
func ParseKey(public []byte) (*rsa.PublicKey, error) {
	p, err := parsePublic(public)
	if err != nil {
		return nil, err
	}
	return p.key, nil
}

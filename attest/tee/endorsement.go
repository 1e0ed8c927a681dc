package tee

import (
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"strings"
)

// Endorsement is what AMD says in the certificate of a report-signing key about the chip and
// firmware that hold the key (AMD 57230, "VCEK Certificate" and "VLEK Certificate").
type Endorsement struct {
	StructVersion uint8  // 0 on Milan and Genoa, 1 on Turin
	ProductName   string // such as "Milan-B0"; a VLEK's has no stepping
	TCB           TCB    // the firmware level that the key was derived for
	HWID          []byte // VCEK only: 64 bytes, on Turin 8
	CSP           string // VLEK only: the cloud provider
}

// Line is the product line, such as "Milan".
func (e *Endorsement) Line() string {
	line, _, _ := strings.Cut(e.ProductName, "-")
	return line
}

// SigningKey says which kind of key the certificate is for.
func (e *Endorsement) SigningKey() SigningKey {
	if e.HWID == nil {
		return SigningKeyVLEK
	}
	return SigningKeyVCEK
}

// amdArc is the arc of AMD's certificate extensions, 1.3.6.1.4.1.3704.1, in text.
const amdArc = "1.3.6.1.4.1.3704.1."

// The extensions of both structure versions.
const (
	extStruct  = amdArc + "1"
	extProduct = amdArc + "2"
	extHWID    = amdArc + "4"
	extCSP     = amdArc + "5"
	extTCB     = amdArc + "3."
)

// components lists for each structure version which byte of the TCB the extension 3.N is about, and
// whether a certificate must have it.
func components(version uint8) (bytes map[string]int, required []string) {
	if version == 0 {
		return map[string]int{"1": 0, "2": 1, "4": 2, "5": 3, "6": 4, "7": 5, "3": 6, "8": 7},
			[]string{"1", "2", "3", "4", "5", "6", "7", "8"}
	}
	return map[string]int{"9": 0, "1": 1, "2": 2, "3": 3, "4": 4, "5": 4, "6": 5, "7": 6, "8": 7},
		[]string{"1", "2", "3", "8", "9"}
}

// ParseEndorsement reads AMD's extensions of a VCEK or VLEK certificate. It refuses a certificate
// that has one of them twice, lacks one, or has one that is not known.
func ParseEndorsement(cert *x509.Certificate) (*Endorsement, error) {
	values, err := amdExtensions(cert)
	if err != nil {
		return nil, err
	}
	e := &Endorsement{}
	if e.StructVersion, err = smallInteger(values, extStruct); err != nil {
		return nil, err
	}
	if e.StructVersion > 1 {
		return nil, fmt.Errorf("structure version %d is not supported", e.StructVersion)
	}
	if e.ProductName, err = ia5(values, extProduct); err != nil {
		return nil, err
	}
	if (e.Line() == lineTurin) != (e.StructVersion == 1) {
		return nil, fmt.Errorf("structure version %d does not go with product %.20q", e.StructVersion, e.ProductName)
	}
	if err := e.readSubject(values); err != nil {
		return nil, err
	}
	return e, e.readTCB(values)
}

// readSubject reads whose key it is: a chip's, or a provider's.
func (e *Endorsement) readSubject(values map[string][]byte) error {
	hwid, chip := values[extHWID]
	_, provider := values[extCSP]
	if chip == provider {
		return errors.New("neither or both of hardware id and provider are named")
	}
	if provider {
		var err error
		e.CSP, err = ia5(values, extCSP)
		if err == nil && e.CSP == "" {
			err = errors.New("the provider's name is empty")
		}
		return err
	}
	size := chipIDSize
	if e.StructVersion == 1 {
		size = turinChipIDSize
	}
	// AMD writes the bytes without a tag; others tag them.
	if len(hwid) != size {
		var tagged []byte
		if rest, err := asn1.Unmarshal(hwid, &tagged); err != nil || len(rest) > 0 || len(tagged) != size {
			return fmt.Errorf("hardware id is not %d bytes", size)
		}
		hwid = tagged
	}
	e.HWID = hwid
	return nil
}

func (e *Endorsement) readTCB(values map[string][]byte) error {
	at, required := components(e.StructVersion)
	for _, n := range required {
		if _, ok := values[extTCB+n]; !ok {
			return fmt.Errorf("extension %s%s is missing", extTCB, n)
		}
	}
	for id := range values {
		n, ok := strings.CutPrefix(id, extTCB)
		if !ok {
			continue
		}
		byteAt, known := at[n]
		if !known {
			return fmt.Errorf("unknown extension %s", id)
		}
		level, err := smallInteger(values, id)
		if err != nil {
			return err
		}
		e.TCB |= TCB(level) << (8 * byteAt)
	}
	if e.TCB.reserved(e.Line()) {
		return fmt.Errorf("reserved components of TCB %v are not zero", e.TCB)
	}
	return nil
}

// amdExtensions returns the values of AMD's extensions. Those of others are package x509's matter.
func amdExtensions(cert *x509.Certificate) (map[string][]byte, error) {
	values := map[string][]byte{}
	for _, ext := range cert.Extensions {
		id := ext.Id.String()
		if !strings.HasPrefix(id, amdArc) {
			continue
		}
		if _, twice := values[id]; twice {
			return nil, fmt.Errorf("extension %s occurs twice", id)
		}
		known := id == extStruct || id == extProduct || id == extHWID || id == extCSP || strings.HasPrefix(id, extTCB)
		if !known {
			return nil, fmt.Errorf("unknown extension %s", id)
		}
		values[id] = ext.Value
	}
	return values, nil
}

func smallInteger(values map[string][]byte, id string) (uint8, error) {
	value, ok := values[id]
	if !ok {
		return 0, fmt.Errorf("extension %s is missing", id)
	}
	var n int
	if rest, err := asn1.Unmarshal(value, &n); err != nil || len(rest) > 0 || n < 0 || n > 255 {
		return 0, fmt.Errorf("extension %s is not an integer from 0 to 255", id)
	}
	return uint8(n), nil
}

func ia5(values map[string][]byte, id string) (string, error) {
	value, ok := values[id]
	if !ok {
		return "", fmt.Errorf("extension %s is missing", id)
	}
	var s string
	rest, err := asn1.UnmarshalWithParams(value, &s, "ia5")
	if err != nil || len(rest) > 0 || value[0] != asn1.TagIA5String {
		return "", fmt.Errorf("extension %s is not an IA5String", id)
	}
	return s, nil
}

package cases

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/internal/strictjson"
	"github.com/keyagent/keyagent/internal/certs"
)

// parts is what a case has: the evidence, and the attestation key if only the key itself is given.
type parts struct {
	evidence attest.Evidence
	akKey    *rsa.PublicKey
}

// readParts puts the parts of a case together as this module's evidence has them.
func (f *File) readParts(c *Case) (*parts, error) {
	p := &parts{}
	for _, pair := range [][2]string{{"vcek", "vcek-chain"}, {"quote-signature", "quote-tpmt-signature"}, {"ak-public", "ak-public-2b"}, {"binding-public", "binding-public-2b"}} {
		if c.Parts[pair[0]] != "" && c.Parts[pair[1]] != "" {
			return nil, fmt.Errorf("both parts %s and %s", pair[0], pair[1])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Parts)) {
		path := c.Parts[name]
		if path == "" {
			return nil, fmt.Errorf("part %s has no path", name)
		}
		if err := p.read(name, filepath.Join(f.dir, filepath.FromSlash(path))); err != nil {
			return nil, fmt.Errorf("part %.40s: %w", name, err)
		}
	}
	return p, nil
}

func (p *parts) read(name, path string) error {
	if name == "collateral" {
		return p.readCollateral(path)
	}
	data, err := readFile(path, maxPartSize)
	if err != nil {
		return err
	}
	e := &p.evidence
	switch name {
	case "hcl-report":
		e.HCLReport = data
	case "snp-report":
		e.SNPReport = data
	case "runtime-claims":
		e.RuntimeClaims = data
	case "vcek", "vcek-chain":
		e.VCEKChain = certificates(data)
	case "td-quote":
		e.TDQuote = data
	case "ak-cert-nv":
		e.AKCertificate = slices.Concat(certificates(data)...)
	case "ak-intermediates":
		e.AKIntermediates = certificates(data)
	case "ak-public":
		p.readAK(data)
	case "ak-public-2b":
		e.AKPublic = unsized(data)
	case "binding-public":
		e.KeyPublic = data
	case "binding-public-2b":
		e.KeyPublic = unsized(data)
	case "certify":
		e.Certify = data
	case "certify-signature":
		e.CertifySignature = data
	case "quote":
		e.Quote = data
	case "quote-signature", "quote-tpmt-signature":
		e.QuoteSignature = data
	case "pcrs":
		e.PCRs, err = readPCRs(data)
		return err
	default:
		return errors.New("unknown part")
	}
	return nil
}

// certificates returns the certificates of a PEM text, or data as one of DER. None is parsed: that
// is the verifier's part.
func certificates(data []byte) [][]byte {
	var list [][]byte
	rest := data
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		list = append(list, block.Bytes)
	}
	if len(list) == 0 {
		return [][]byte{data}
	}
	if bytes.Contains(rest, []byte("-----BEGIN")) { // a block that cannot be read
		list = append(list, rest)
	}
	return list
}

// readAK takes the attestation key from a public key in PEM or DER. Anything else is a public area,
// or for the verifier to refuse as one.
func (p *parts) readAK(data []byte) {
	der := certificates(data)[0]
	if key, err := x509.ParsePKIXPublicKey(der); err == nil {
		if k, ok := key.(*rsa.PublicKey); ok {
			p.akKey = k
			return
		}
	}
	if key, err := x509.ParsePKCS1PublicKey(der); err == nil {
		p.akKey = key
		return
	}
	p.evidence.AKPublic = unsized(data)
}

// unsized takes the size off a TPM2B_PUBLIC. A size that is not that of the rest stays where it is,
// and no public area begins so.
func unsized(data []byte) []byte {
	if len(data) > 2 && int(binary.BigEndian.Uint16(data)) == len(data)-2 {
		return data[2:]
	}
	return data
}

// readPCRs reads the values of a bank by index. Their number and size are the verifier's matter.
func readPCRs(data []byte) (map[int][]byte, error) {
	var file struct {
		Bank string            `json:"bank"`
		Note string            `json:"note"`
		PCRs map[string]string `json:"pcrs"`
	}
	if err := strictjson.UnmarshalOpen(data, &file); err != nil {
		return nil, err
	}
	if file.PCRs == nil { // the values without anything around them
		if err := strictjson.Unmarshal(data, &file.PCRs); err != nil {
			return nil, errors.New("no member \"pcrs\"")
		}
	}
	if file.Bank != "" && !strings.EqualFold(strings.ReplaceAll(file.Bank, "-", ""), "sha256") {
		return nil, fmt.Errorf("values of bank %.20q, want sha256", file.Bank)
	}
	values := map[int][]byte{}
	for name, digest := range file.PCRs {
		index, err := strconv.Atoi(name)
		if err != nil || strconv.Itoa(index) != name {
			return nil, fmt.Errorf("PCR index %.20q", name)
		}
		if values[index], err = hex.DecodeString(strings.TrimPrefix(digest, "0x")); err != nil {
			return nil, fmt.Errorf("PCR %d: %w", index, err)
		}
	}
	return values, nil
}

// trust is what a file adds to the built-in anchors.
type trust struct {
	amd  []attest.AMDRoot
	vtpm []*x509.Certificate
}

func (f *File) readTrust(raw json.RawMessage) (trust, error) {
	var t trust
	var paths struct {
		ARK  anchorFiles `json:"amd_ark"`
		ASK  anchorFiles `json:"amd_ask"`
		VTPM anchorFiles `json:"vtpm_root"`
		Note string      `json:"note"`
	}
	if err := strictjson.Unmarshal(raw, &paths); err != nil {
		return t, err
	}
	if (paths.ARK == nil) != (paths.ASK == nil) {
		return t, errors.New("amd_ark and amd_ask go together")
	}
	if paths.VTPM != nil {
		list, err := f.anchors(paths.VTPM)
		if err != nil {
			return t, fmt.Errorf("vtpm_root: %w", err)
		}
		t.vtpm = list
	}
	if paths.ARK == nil {
		return t, nil
	}
	arks, err := f.anchors(paths.ARK)
	if err != nil {
		return t, fmt.Errorf("amd_ark: %w", err)
	}
	asks, err := f.anchors(paths.ASK)
	if err != nil {
		return t, fmt.Errorf("amd_ask: %w", err)
	}
	for _, ark := range arks {
		for _, ask := range asks {
			// A file may have a whole chain in it: pairs are the parts that belong together.
			if bytes.Equal(ark.RawSubject, ark.RawIssuer) && !ask.Equal(ark) && ask.CheckSignatureFrom(ark) == nil {
				t.amd = append(t.amd, amdRoots(ark, ask)...)
			}
		}
	}
	if len(t.amd) == 0 {
		return t, errors.New("no amd_ask that an amd_ark has issued")
	}
	return t, nil
}

// anchorFiles is a certificate to trust, or a list of them: each a path, or PEM itself.
type anchorFiles []string

func (a *anchorFiles) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*a = anchorFiles{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

func (f *File) anchors(values anchorFiles) ([]*x509.Certificate, error) {
	var list []*x509.Certificate
	for _, value := range values {
		data := []byte(value)
		if !strings.Contains(value, "-----BEGIN") {
			var err error
			if data, err = readFile(filepath.Join(f.dir, filepath.FromSlash(value)), maxPartSize); err != nil {
				return nil, err
			}
		}
		for _, der := range certificates(data) {
			cert, err := certs.Parse(der)
			if err != nil {
				return nil, err
			}
			list = append(list, cert)
		}
	}
	return list, nil
}

// amdRoots are the roots of the product line that AMD's names say. Names that say none stand for
// every line.
func amdRoots(ark, ask *x509.Certificate) []attest.AMDRoot {
	line, named := strings.CutPrefix(ark.Subject.CommonName, "ARK-")
	if !named {
		line, named = strings.CutPrefix(ask.Subject.CommonName, "SEV-")
	}
	builtIn := attest.DefaultTrustAnchors().AMD
	known := slices.ContainsFunc(builtIn, func(r attest.AMDRoot) bool { return r.Product == line })
	var roots []attest.AMDRoot
	if named {
		roots = append(roots, attest.AMDRoot{Product: line, ARK: ark, ASK: ask})
	}
	if !known {
		for _, r := range builtIn {
			roots = append(roots, attest.AMDRoot{Product: r.Product, ARK: ark, ASK: ask})
		}
	}
	return roots
}

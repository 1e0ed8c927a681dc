package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"math/big"
	"time"
)

// What the simulated platform is, as a host of Azure in 2026 was: kind, and versions of all SGX
// components, of the PCE, the TDX module and the quoting enclave.
const (
	fmspc        = "90C06F000000"
	sgxComponent = 3
	pceVersion   = 13
	moduleMinor  = 13
	moduleMajor  = 1
	moduleUpdate = 4
	qeVersion    = 7
)

// collateralDays is how long Intel's statements are valid.
const collateralDays = 30

// TDXPlatform is one Intel platform with the chain that vouches for it, and Intel's word on its
// firmware. It is immutable.
type TDXPlatform struct {
	Root *x509.Certificate // Intel SGX Root CA

	root, platformCA, signing *authority
	pck                       *x509.Certificate
	pckKey, attestationKey    *ecdsa.PrivateKey
	now                       time.Time
}

// NewTDXPlatform makes a platform under a root of its own, valid from now on.
func NewTDXPlatform(now time.Time) (*TDXPlatform, error) {
	p := &TDXPlatform{now: now}
	var err error
	if p.root, err = p.authority("Intel SGX Root CA", nil); err != nil {
		return nil, err
	}
	p.Root = p.root.certificate
	if p.platformCA, err = p.authority("Intel SGX PCK Platform CA", p.root); err != nil {
		return nil, err
	}
	signing, key, err := p.leaf("Intel SGX TCB Signing", p.root, nil)
	if err != nil {
		return nil, err
	}
	p.signing = &authority{certificate: signing, key: key}
	extension, err := sgxExtension()
	if err != nil {
		return nil, err
	}
	if p.pck, p.pckKey, err = p.leaf("Intel SGX PCK Certificate", p.platformCA, []pkix.Extension{extension}); err != nil {
		return nil, err
	}
	p.attestationKey, err = newECKey(elliptic.P256())
	return p, err
}

func (p *TDXPlatform) authority(name string, parent *authority) (*authority, error) {
	key, err := newECKey(elliptic.P256())
	if err != nil {
		return nil, err
	}
	t := caTemplate(name, p.now, 15, 1)
	t.Subject = intelName(name)
	if parent == nil {
		return newRoot(t, key)
	}
	t.MaxPathLen, t.MaxPathLenZero = 0, true
	return certify(t, key, parent)
}

func (p *TDXPlatform) leaf(name string, parent *authority, extensions []pkix.Extension) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	key, err := newECKey(elliptic.P256())
	if err != nil {
		return nil, nil, err
	}
	cert, err := parent.issue(&x509.Certificate{
		Subject: intelName(name), NotBefore: p.now.Add(-backdated), NotAfter: p.now.AddDate(7, 0, 0),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment,
		ExtraExtensions: extensions,
	}, key.Public())
	return cert, key, err
}

func intelName(commonName string) pkix.Name {
	return pkix.Name{
		Country: []string{"US"}, Province: []string{"CA"}, Locality: []string{"Santa Clara"},
		Organization: []string{"Intel Corporation"}, CommonName: commonName,
	}
}

// pair is a member of Intel's extension of PCK certificates.
type pair struct {
	ID    asn1.ObjectIdentifier
	Value any
}

// sgxExtension is Intel's extension of PCK certificates: PPID, versions, PCE id, FMSPC and kind.
func sgxExtension() (pkix.Extension, error) {
	id := func(below ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, below...)
	}
	var tcb []pair
	for component := 1; component <= 16; component++ {
		tcb = append(tcb, pair{id(2, component), sgxComponent})
	}
	tcb = append(tcb, pair{id(2, 17), pceVersion}, pair{id(2, 18), make([]byte, 16)})
	ppid := make([]byte, 16)
	if _, err := rand.Read(ppid); err != nil {
		return pkix.Extension{}, err
	}
	kind, err := hex.DecodeString(fmspc)
	if err != nil {
		return pkix.Extension{}, err
	}
	value, err := asn1.Marshal([]pair{
		{id(1), ppid}, {id(2), tcb}, {id(3), []byte{0, 0}}, {id(4), kind}, {id(5), asn1.Enumerated(1)},
	})
	return pkix.Extension{Id: id(), Value: value}, err
}

// RootPEM returns the root.
func (p *TDXPlatform) RootPEM() []byte { return EncodePEM(p.Root) }

// Collateral is what Intel's service says about the platform, as files of a directory: documents
// exactly as signed, signatures in hexadecimal, chains in PEM, revocation lists in DER.
func (p *TDXPlatform) Collateral() (map[string][]byte, error) {
	signingChain := EncodePEM(p.signing.certificate, p.Root)
	files := map[string][]byte{
		"tcb-info-issuer-chain.pem":    signingChain,
		"qe-identity-issuer-chain.pem": signingChain,
		"pck-crl-issuer-chain.pem":     EncodePEM(p.platformCA.certificate, p.Root),
	}
	for name, document := range map[string]any{"tcb-info": p.tcbInfo(), "qe-identity": p.qeIdentity()} {
		text, err := json.Marshal(document)
		if err != nil {
			return nil, err
		}
		signature, err := signP256(p.signing.key.(*ecdsa.PrivateKey), text)
		if err != nil {
			return nil, err
		}
		files[name+".json"], files[name+".sig.hex"] = text, []byte(hex.EncodeToString(signature)+"\n")
	}
	for name, by := range map[string]*authority{"root-ca-crl.der": p.root, "pck-crl.der": p.platformCA} {
		list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
			Number: big.NewInt(1), ThisUpdate: p.now.Add(-backdated), NextUpdate: p.now.AddDate(0, 0, collateralDays),
		}, by.certificate, by.key)
		if err != nil {
			return nil, err
		}
		files[name] = list
	}
	return files, nil
}

// statement has what Intel's documents have in common.
func (p *TDXPlatform) statement(id string, version int, more map[string]any) map[string]any {
	const form = "2006-01-02T15:04:05Z"
	document := map[string]any{
		"id": id, "version": version, "tcbEvaluationDataNumber": 19,
		"issueDate": p.now.UTC().Add(-backdated).Format(form), "nextUpdate": p.now.UTC().AddDate(0, 0, collateralDays).Format(form),
	}
	for name, value := range more {
		document[name] = value
	}
	return document
}

func (p *TDXPlatform) tcbInfo() map[string]any {
	module := map[string]any{"mrsigner": zeros(48), "attributes": zeros(8), "attributesMask": "FFFFFFFFFFFFFFFF"}
	identity := map[string]any{"id": "TDX_01", "tcbLevels": []any{svnLevel(6)}}
	for name, value := range module {
		identity[name] = value
	}
	var sgx, tdx []any
	for component := range 16 {
		sgx = append(sgx, map[string]any{"svn": sgxComponent})
		tdx = append(tdx, map[string]any{"svn": map[int]int{0: 5, 2: 3}[component]})
	}
	return p.statement("TDX", 3, map[string]any{
		"fmspc": fmspc, "pceId": "0000", "tcbType": 0, "tdxModule": module, "tdxModuleIdentities": []any{identity},
		"tcbLevels": []any{map[string]any{
			"tcb":     map[string]any{"sgxtcbcomponents": sgx, "pcesvn": pceVersion, "tdxtcbcomponents": tdx},
			"tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "UpToDate",
		}},
	})
}

func (p *TDXPlatform) qeIdentity() map[string]any {
	return p.statement("TD_QE", 2, map[string]any{
		"miscselect": "00000000", "miscselectMask": "FFFFFFFF",
		"attributes": "11000000000000000000000000000000", "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
		"mrsigner": qeSigner, "isvprodid": 2, "tcbLevels": []any{svnLevel(4)},
	})
}

func svnLevel(version int) map[string]any {
	return map[string]any{"tcb": map[string]any{"isvsvn": version}, "tcbDate": "2025-05-14T00:00:00Z", "tcbStatus": "UpToDate"}
}

func zeros(n int) string { return hex.EncodeToString(make([]byte, n)) }

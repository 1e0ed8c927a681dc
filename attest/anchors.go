package attest

import (
	"crypto/x509"
	_ "embed" // the roots

	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
)

// TrustAnchors are the certificates that a verifier trusts. Certificates in evidence are never
// anchors.
type TrustAnchors struct {
	AMD               []AMDRoot
	Intel             []*x509.Certificate // roots of PCK certificates and of Intel's statements on firmware
	VTPM              []*x509.Certificate // roots of AK certificates
	VTPMIntermediates []*x509.Certificate // issuers of AK certificates, not sent by hosts
}

var (
	//go:embed roots/azure-virtual-tpm-root-2023.pem
	azureVTPMRoot2023 []byte
	//go:embed roots/microsoft-rsa-devices-root-ca-2021.pem
	microsoftDevicesRoot2021 []byte
	//go:embed roots/global-virtual-tpm-ca-03.pem
	globalVTPMCA03 []byte
)

// DefaultTrustAnchors returns the roots that the makers of processors publish (AMD's for Milan,
// Genoa and Turin, Intel's), and Microsoft's roots of the CA that certifies Azure's virtual TPMs.
// The intermediate "Global Virtual TPM CA - 03" is included because Microsoft publishes it only
// inside a web page.
func DefaultTrustAnchors() TrustAnchors {
	a := TrustAnchors{
		VTPM:              append(builtIn(azureVTPMRoot2023), builtIn(microsoftDevicesRoot2021)...),
		VTPMIntermediates: builtIn(globalVTPMCA03),
	}
	for _, p := range platforms() {
		p.addAnchors(&a)
	}
	return a
}

// Remembering returns anchors for a verifier of many machines: the chain of a chip, which many
// machines share, is verified once, and after that only the times of its certificates are checked.
// The memory is bounded. The anchors may be used concurrently.
func (a TrustAnchors) Remembering() TrustAnchors {
	a.AMD = tee.Remembering(a.AMD)
	return a
}

func builtIn(data []byte) []*x509.Certificate {
	certs, err := ParseCertificates(data)
	if err != nil {
		panic("attest: built-in root: " + err.Error()) // impossible: a test parses the embedded files
	}
	return certs
}

// ParseCertificates reads all certificates of a PEM text of at most 1 MiB, in order. A text of
// which anything cannot be read is refused as a whole.
func ParseCertificates(data []byte) ([]*x509.Certificate, error) {
	return certs.Read(data, certs.Rules{MaxBytes: 1 << 20, MaxCertificates: 1000})
}

// ParseIntelRoots reads roots that stand for Intel's from a PEM file, by the rules of
// ParseVTPMRoots.
func ParseIntelRoots(data []byte) ([]*x509.Certificate, error) { return certs.Authorities(data) }

// ParseVTPMRoots reads roots and intermediates of AK certificates from a PEM file, as
// ParseCertificates does. A certificate that may not issue others is refused, since as an anchor it
// would be of no use but to trust itself.
func ParseVTPMRoots(data []byte) ([]*x509.Certificate, error) { return certs.Authorities(data) }

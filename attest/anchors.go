package attest

import (
	"crypto/x509"
	_ "embed" // the roots
	"encoding/hex"

	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
)

// AMDRoot is AMD's certificate pair for one product line.
type AMDRoot = tee.AMDRoot

// TrustAnchors are the certificates that a verifier believes. Certificates in evidence are never anchors.
type TrustAnchors struct {
	AMD               []AMDRoot
	VTPM              []*x509.Certificate // roots of AK certificates
	VTPMIntermediates []*x509.Certificate // issuers that hosts do not send along and that no AIA names
}

var (
	//go:embed roots/azure-virtual-tpm-root-2023.pem
	azureVTPMRoot2023 []byte
	//go:embed roots/microsoft-rsa-devices-root-ca-2021.pem
	microsoftDevicesRoot2021 []byte
	//go:embed roots/global-virtual-tpm-ca-03.pem
	globalVTPMCA03 []byte
)

// DefaultTrustAnchors returns AMD's roots for Milan and Genoa, and Microsoft's roots of the CA that certifies Azure's virtual TPMs.
// The intermediate "Global Virtual TPM CA - 03" is included because Microsoft publishes it only inside a web page.
func DefaultTrustAnchors() TrustAnchors {
	return TrustAnchors{
		AMD:               tee.DefaultAMDRoots(),
		VTPM:              append(builtIn(azureVTPMRoot2023), builtIn(microsoftDevicesRoot2021)...),
		VTPMIntermediates: builtIn(globalVTPMCA03),
	}
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

// ParseVTPMRoots reads roots and intermediates of AK certificates from a PEM file, as
// ParseCertificates does. A certificate that may not issue others is refused, since as an anchor it
// would be of no use but to trust itself.
func ParseVTPMRoots(data []byte) ([]*x509.Certificate, error) { return certs.Authorities(data) }

// ParseAMDRoots reads ASK and ARK certificates from PEM; see [tee.ParseAMDRoots].
func ParseAMDRoots(data []byte) ([]AMDRoot, error) { return tee.ParseAMDRoots(data) }

// AzureIDKeyDigests returns the digests of the ID keys under which Azure's paravisor has been seen to launch, 2022 to 2026. Microsoft
// publishes no list and changes the key about once a year: an operator adds new ones to the policy. The key of a test service that was seen
// in 2022 is left out on purpose.
func AzureIDKeyDigests() [][]byte {
	var digests [][]byte
	for _, s := range []string{
		"0356215882a825279a85b300b0b742931d113bf7e32dde2e50ffde7ec743ca491ecdd7f336dc28a6e0b2bb57af7a44a3", // 2023 to 2025
		"942fd93ebde6ea7a96efadeafc60f1c6b3d10e703b1dafd7555b92f7f3d32d0e006767648cba5b102af3d65756af4177", // 2025 to 2026, Milan and Genoa
		"934f68bd8ba01938eec21475c872e3a942b60c59fafc6df9e9a76ee66bc47f2d09c676f61c0315c578da26085fb13a71", // 2023
	} {
		b, err := hex.DecodeString(s)
		if err != nil {
			panic("attest: built-in ID key digest: " + err.Error()) // impossible: a test decodes them
		}
		digests = append(digests, b)
	}
	return digests
}

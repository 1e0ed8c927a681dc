package collect

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/upstream"
)

// snp is AMD SEV-SNP, whose reports are endorsed by the certificate of the chip's key VCEK.
func snp() platform {
	return platform{kind: hcl.TypeSNP, path: "amd/certification", subject: vcekSubject, parse: parseVCEK, add: addVCEK}
}

// vcekSubject is the chip and its firmware level: a VCEK is derived from both.
func vcekSubject(hardware []byte) (string, error) {
	report, err := tee.ParseSNPReport(hardware)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(report.ChipID) + "/" + report.ReportedTCB.String(), nil
}

func addVCEK(e *attest.Evidence, chain [][]byte) { e.VCEKChain = chain }

// parseVCEK reads the host's answer, two PEM texts in JSON: the VCEK, and ASK and ARK.
func parseVCEK(body []byte) ([][]byte, error) {
	answer, err := upstream.ParseMembers(body)
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	vcek, err := answer.Text("vcekCert")
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	chain, err := answer.Text("certificateChain")
	if _, missing := errors.AsType[*upstream.MissingError](err); err != nil && !missing { // verifiers have it
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	found, err := attest.ParseCertificates([]byte(vcek + "\n" + chain))
	if err != nil {
		return nil, fmt.Errorf("unusable answer: %w", err)
	}
	const fewest, most = 1, 6
	if len(found) < fewest || len(found) > most {
		return nil, fmt.Errorf("unusable answer: %d certificates", len(found))
	}
	var der [][]byte
	for _, cert := range found {
		if err := certs.CheckKey(cert.PublicKey); err != nil {
			return nil, fmt.Errorf("unusable answer: certificate of %.60q: %w", cert.Subject.CommonName, err)
		}
		der = append(der, cert.Raw)
	}
	return der, nil
}

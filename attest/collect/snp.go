package collect

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/certs"
	"github.com/keyagent/keyagent/internal/upstream"
)

// vcekPath is where Trusted Hardware Identity Management (THIM) answers which certificates belong
// to this processor.
const (
	vcekPath = "/metadata/THIM/amd/certification"
	vcekWhat = "the processor's certificates"
)

// snp is AMD SEV-SNP, whose reports are endorsed by the certificate of the chip's key VCEK.
func snp() platform {
	return platform{kind: hcl.TypeSNP, subject: vcekSubject, endorse: endorseVCEK}
}

// vcekSubject is the chip and its firmware level: a VCEK is derived from both.
func vcekSubject(hardware []byte) (string, error) {
	report, err := tee.ParseSNPReport(hardware)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(report.ChipID) + "/" + report.ReportedTCB.String(), nil
}

// endorseVCEK fetches the certificates, as DER, the signer's first. They are candidates: only
// verification shows what they prove.
func endorseVCEK(ctx context.Context, c *Collector, _ []byte) (endorsements, error) {
	body, err := c.host.ask(ctx, question{method: http.MethodGet, path: vcekPath, what: vcekWhat})
	if err != nil {
		return endorsements{}, err
	}
	chain, err := parseVCEK(body)
	if err != nil {
		return endorsements{}, &HostError{What: vcekWhat, Status: http.StatusOK, Err: err}
	}
	return endorsements{add: func(e *attest.Evidence) { e.VCEKChain = chain }}, nil
}

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

package cases

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"path/filepath"

	"github.com/keyagent/keyagent/attest"
)

func withoutCollateral(p *attest.Policy) { p.CollateralNotRequired = true }

// readCollateral reads Intel's statements from a directory. A file that is not there is left out:
// the verifier decides about missing statements.
func (p *parts) readCollateral(dir string) error {
	c := &attest.TDXCollateral{}
	for _, file := range []struct {
		name string
		to   *[]byte
	}{
		{"tcb-info.json", &c.TCBInfo}, {"tcb-info.sig.hex", &c.TCBInfoSignature}, {"tcb-info-issuer-chain.pem", &c.TCBInfoChain},
		{"qe-identity.json", &c.QEIdentity}, {"qe-identity.sig.hex", &c.QEIdentitySignature}, {"qe-identity-issuer-chain.pem", &c.QEIdentityChain},
		{"root-ca-crl.der", &c.RootCACRL}, {"pck-crl.der", &c.PCKCRL}, {"pck-crl-issuer-chain.pem", &c.PCKCRLChain},
	} {
		data, err := readFile(filepath.Join(dir, file.name), maxPartSize)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		*file.to = data
	}
	if c.TCBInfo == nil && c.QEIdentity == nil && c.PCKCRL == nil && c.RootCACRL == nil {
		return errors.New("no collateral in the directory")
	}
	c.TCBInfoSignature, c.QEIdentitySignature = unhex(c.TCBInfoSignature), unhex(c.QEIdentitySignature)
	p.evidence.TDXCollateral = c
	return nil
}

// unhex reads a signature in hexadecimal. Text that is not hexadecimal stays as it is, and will not
// verify.
func unhex(text []byte) []byte {
	if b, err := hex.DecodeString(string(bytes.TrimSpace(text))); err == nil {
		return b
	}
	return text
}

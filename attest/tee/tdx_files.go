package tee

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// ReadTDXCollateral reads collateral that an operator keeps in files: tcb-info.json and
// qe-identity.json, exactly as signed; tcb-info.sig.hex and qe-identity.sig.hex;
// tcb-info-issuer-chain.pem, qe-identity-issuer-chain.pem and pck-crl-issuer-chain.pem;
// root-ca-crl.der and pck-crl.der. The function returns the content of one of them.
func ReadTDXCollateral(read func(name string) ([]byte, error)) (*TDXCollateral, error) {
	var failed []error
	file := func(name string) []byte {
		b, err := read(name)
		failed = append(failed, err)
		return b
	}
	signature := func(name string) []byte {
		b, err := hex.DecodeString(strings.TrimSpace(string(file(name))))
		if err != nil {
			failed = append(failed, fmt.Errorf("%s is not hexadecimal", name))
		}
		return b
	}
	c := &TDXCollateral{
		TCBInfo: file("tcb-info.json"), TCBInfoSignature: signature("tcb-info.sig.hex"), TCBInfoChain: file("tcb-info-issuer-chain.pem"),
		QEIdentity: file("qe-identity.json"), QEIdentitySignature: signature("qe-identity.sig.hex"), QEIdentityChain: file("qe-identity-issuer-chain.pem"),
		RootCACRL: file("root-ca-crl.der"), PCKCRL: file("pck-crl.der"), PCKCRLChain: file("pck-crl-issuer-chain.pem"),
	}
	if err := errors.Join(append(failed, c.CheckSizes())...); err != nil {
		return nil, fmt.Errorf("collateral of Intel's: %w", err)
	}
	return c, nil
}

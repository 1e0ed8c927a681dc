package maa

import (
	"errors"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// tdx is Intel TDX. The service wants the quote as the host made it, and gets Intel's collateral
// itself.
func tdx() platform { return platform{kind: hcl.TypeTDX, name: "Tdx", proof: encodeTDX} }

func encodeTDX(_ []byte, e *attest.Evidence) ([]byte, error) {
	if e.TDQuote == nil {
		return nil, errors.New("evidence has no TD quote")
	}
	return e.TDQuote, nil
}

package cases

import (
	"errors"

	"github.com/keyagent/keyagent/attest"
)

var errUnsupported = errors.New("evidence of Intel TDX is not supported")

func (p *parts) setTDQuote([]byte) error     { return errUnsupported }
func (p *parts) readCollateral(string) error { return errUnsupported }
func withoutCollateral(*attest.Policy)       {}

func tdxFacts(*parts, *attest.Result) (group, error) { return nil, errUnsupported }

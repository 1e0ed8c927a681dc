package maa

import (
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// A platform says how the service takes the hardware evidence of one kind of hardware. Each has a
// file of its own, and platforms lists them; the rest of the package asks the platform of the
// report and names none.
type platform struct {
	kind hcl.ReportType
	name string // what the service calls it
	// proof encodes the report and its endorsements as the service takes them.
	proof func(hardware []byte, e *attest.Evidence) ([]byte, error)
}

func platforms() []platform { return []platform{snp(), tdx()} }

func platformOf(kind hcl.ReportType) (platform, error) {
	for _, p := range platforms() {
		if p.kind == kind {
			return p, nil
		}
	}
	return platform{}, fmt.Errorf("the hardware is %v, which is not supported yet", kind)
}

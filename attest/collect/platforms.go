package collect

import (
	"context"
	"fmt"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// A platform says how to get the endorsements of one kind of hardware: what vouches for the key
// that signs its reports. Each has a file of its own, and platforms lists them; the rest of the
// package asks the platform of the report and names none.
type platform struct {
	kind hcl.ReportType
	path string // below thimPath
	// subject names what the endorsements are about: two reports of one subject have the same.
	subject func(hardware []byte) (string, error)
	// parse reads the host's answer.
	parse func(body []byte) ([][]byte, error)
	add   func(e *attest.Evidence, endorsements [][]byte)
}

func platforms() []platform { return []platform{snp()} }

func platformOf(kind hcl.ReportType) (platform, error) {
	for _, p := range platforms() {
		if p.kind == kind {
			return p, nil
		}
	}
	return platform{}, fmt.Errorf("the hardware is %v, which is not supported yet", kind)
}

// endorsements is the host's last answer, with the subject that it is about.
type endorsements struct {
	kind    hcl.ReportType
	subject string
	der     [][]byte
}

// addEndorsements adds what vouches for the report's signer, from the cache if the subject is the
// same as last time.
func (c *Collector) addEndorsements(ctx context.Context, e *attest.Evidence) error {
	report, err := hcl.Parse(e.HCLReport)
	if err != nil {
		return err
	}
	p, err := platformOf(report.Type)
	if err != nil {
		return err
	}
	subject, err := p.subject(report.Hardware)
	if err != nil {
		return err
	}
	der := c.cached(p.kind, subject)
	if der == nil {
		if der, err = c.thim.certificates(ctx, p); err != nil {
			return err
		}
		c.keep(endorsements{p.kind, subject, der})
	}
	p.add(e, der)
	return nil
}

func (c *Collector) cached(kind hcl.ReportType, subject string) [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.endorsed.kind != kind || c.endorsed.subject != subject {
		return nil
	}
	return c.endorsed.der
}

// keep replaces the cached answer. With none it is forgotten: in evidence that does not verify, the
// answer may be what is wrong.
func (c *Collector) keep(e endorsements) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endorsed = e
}

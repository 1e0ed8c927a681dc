package collect

import (
	"context"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
)

// A platform says how to get the endorsements of one kind of hardware: what vouches for the key
// that signs its reports. Each has a file of its own, and platforms lists them; the rest of the
// package asks the platform of the report and names none.
type platform struct {
	kind hcl.ReportType
	// subject names the chip or platform that the endorsements are about: two reports of one
	// subject have the same.
	subject func(hardware []byte) (string, error)
	// endorse gets them.
	endorse func(ctx context.Context, c *Collector, hardware []byte) (endorsements, error)
}

func platforms() []platform { return []platform{snp(), tdx()} }

// HardwareConfig is what each platform needs to be told.
type HardwareConfig struct{ TDXConfig }

// hardwareState has what each platform keeps besides the endorsements.
type hardwareState struct{ tdxState }

func platformOf(kind hcl.ReportType) (platform, error) {
	for _, p := range platforms() {
		if p.kind == kind {
			return p, nil
		}
	}
	return platform{}, fmt.Errorf("the hardware is %v, which is not supported yet", kind)
}

// endorsements are what vouches for reports of one subject.
type endorsements struct {
	kind    hcl.ReportType
	subject string
	until   time.Time // when to ask again; zero: never
	add     func(e *attest.Evidence)
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
	known, ok := c.cached(p.kind, subject)
	if !ok {
		if known, err = p.endorse(ctx, c, report.Hardware); err != nil {
			return err
		}
		known.kind, known.subject = p.kind, subject
		c.keep(known)
	}
	known.add(e)
	return nil
}

func (c *Collector) cached(kind hcl.ReportType, subject string) (endorsements, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.endorsed
	current := e.until.IsZero() || c.cfg.Now().Before(e.until)
	return e, e.add != nil && e.kind == kind && e.subject == subject && current
}

func (c *Collector) keep(e endorsements) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.endorsed = e
}

// forget drops everything that was fetched: it may be the reason why evidence does not verify.
func (c *Collector) forget() {
	c.keep(endorsements{})
	c.hardware.forget()
}

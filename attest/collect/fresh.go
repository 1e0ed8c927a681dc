package collect

import (
	"bytes"
	"context"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/attest/hcl"
)

// How a report with the guest's new input is waited for. A recent paravisor makes it before the
// read returns, an older one in the background, up to four seconds later; and none makes more than
// one in two seconds.
const (
	freshFirst  = 250 * time.Millisecond // until the second look; the pause doubles
	freshLast   = 2 * time.Second        // the longest pause
	freshWithin = 10 * time.Second       // of pauses, in all
)

// freshReport gives the paravisor the guest's input and reads reports until one carries it. It is
// what the report says that counts, never the time that has passed. The index is the machine's, and
// others may write it, too: so it is written again before each look.
func (c *Collector) freshReport(ctx context.Context, input []byte) ([]byte, error) {
	if err := c.input.Lock(ctx); err != nil {
		return nil, err
	}
	defer c.input.Unlock()
	var waited time.Duration
	for pause := freshFirst; ; pause = min(2*pause, freshLast) {
		if err := c.cfg.TPM.PutNV(ctx, NVUserData, input); err != nil {
			return nil, fmt.Errorf("the guest's input to the HCL report: %w", err)
		}
		raw, err := c.report(ctx)
		if err != nil {
			return nil, err
		}
		carries, err := carriesInput(raw, input)
		if carries || err != nil {
			return raw, err
		}
		if waited >= freshWithin {
			return nil, fmt.Errorf("the HCL report does not carry the guest's input after %v: the paravisor makes no new one, or another program writes NV index 0x%08x, too",
				waited, uint32(NVUserData))
		}
		if err := c.cfg.Sleep(ctx, pause); err != nil {
			return nil, err
		}
		waited += pause
	}
}

// carriesInput reports whether the claims of a report have the guest's input.
func carriesInput(raw, input []byte) (bool, error) {
	report, err := hcl.Parse(raw)
	if err != nil {
		return false, err
	}
	claims, err := hcl.ParseClaims(report.Claims)
	if err != nil {
		return false, err
	}
	if claims.UserData == nil {
		return false, finalError("the HCL report carries no input of the guest: this machine's paravisor is too old for reports that are made for a nonce")
	}
	return bytes.Equal(claims.UserData, input), nil
}

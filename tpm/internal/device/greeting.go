package device

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// family2 is TPM_PT_FAMILY_INDICATOR of a TPM 2.0: "2.0" and a zero byte.
const family2 = 0x322e3000

// fixedProperties is how many properties are asked for at once: those that do not change, as TPM
// 2.0 Part 2, 6.13 numbers them.
const fixedProperties = 64

// greet checks that what answers on a fresh connection is a TPM 2.0 that works, and keeps what it
// says of itself. One that was powered on and not started, such as a bare emulator, is started; the
// kernel does that for its devices.
func (d *Device) greet(ctx context.Context) error {
	t := &greeting{ctx: ctx, device: d}
	fixed, err := Properties(t, tpm2.TPMPTFamilyIndicator, fixedProperties)
	if errors.Is(err, tpm2.TPMRCInitialize) {
		if _, err = (tpm2.Startup{StartupType: tpm2.TPMSUClear}).Execute(t); err == nil {
			fixed, err = Properties(t, tpm2.TPMPTFamilyIndicator, fixedProperties)
		}
	}
	switch {
	case errors.Is(err, tpm2.TPMRCFailure):
		return fmt.Errorf("it is in failure mode and needs a power cycle: %w", err)
	case err != nil:
		return fmt.Errorf("asking whether it is a TPM 2.0: %w", err)
	case fixed[tpm2.TPMPTFamilyIndicator] != family2:
		return errors.New("it is not a TPM 2.0")
	}
	d.fixed = fixed
	return nil
}

// greeting is the transport for asking a TPM on a connection that is not used by a turn yet.
type greeting struct {
	ctx    context.Context
	device *Device
}

func (g *greeting) Send(input []byte) ([]byte, error) {
	return g.device.patiently(g.ctx, g.device.timeout, func() ([]byte, error) { return g.device.roundTrip(g.ctx, input) })
}

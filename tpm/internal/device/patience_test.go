package device

import (
	"context"
	"encoding/binary"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// A TPM that thinks about it each time before it asks for the command again keeps the turn from
// everybody, Close included.
func TestATPMThatAsksSlowlyForRepetitionsDoesNotKeepTheTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := unopened(t)
		defer d.Close()
		start := time.Now()
		rsp, err := d.patiently(context.WithoutCancel(t.Context()), flushPatience, func() ([]byte, error) {
			<-time.After(time.Minute)
			return binary.BigEndian.AppendUint32([]byte{0x80, 0x01, 0, 0, 0, HeaderBytes}, uint32(tpm2.TPMRCRetry)), nil
		})
		if took := time.Since(start); err != nil || ResponseCode(rsp) != tpm2.TPMRCRetry || took > 3*time.Minute {
			t.Errorf("after %v: %x, %v", took, rsp, err)
		}
	})
}

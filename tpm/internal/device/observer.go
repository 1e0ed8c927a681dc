package device

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// Observer is told what the TPM is used for. It is called with the turn held, so it must not block,
// nor use the TPM.
type Observer interface {
	// TPMTurn tells that a caller has got its turn, and for how long it had waited.
	TPMTurn(waited time.Duration)
	// TPMCommand tells of a command by its name in the specification, as in TPM2_Sign, with the
	// time until its answer and one of the outcomes.
	TPMCommand(name string, took time.Duration, outcome string)
}

// Outcomes of a command.
const (
	OutcomeSuccess   = "success"
	OutcomeError     = "error"     // the TPM has answered with another code
	OutcomeAbandoned = "abandoned" // the caller did not wait for the answer
	OutcomeLost      = "lost"      // the connection was lost before the answer
)

// observed exchanges one command over the open connection, and tells the observer.
func (d *Device) observed(ctx context.Context, input []byte) ([]byte, error) {
	d.moves()
	defer d.moves()
	if d.observer == nil {
		return d.conn.exchange(ctx, input)
	}
	begun := time.Now()
	rsp, err := d.conn.exchange(ctx, input)
	name, _, _ := strings.Cut(tcg.Command(uint32(commandCode(input))), " ") // without its number
	d.observer.TPMCommand(name, time.Since(begun), outcomeOf(rsp, err))
	return rsp, err
}

func outcomeOf(rsp []byte, err error) string {
	switch {
	case errors.Is(err, errAbandoned):
		return OutcomeAbandoned
	case err != nil:
		return OutcomeLost
	case ResponseCode(rsp)&^layerBits != tpm2.TPMRCSuccess:
		return OutcomeError
	}
	return OutcomeSuccess
}

// Queued returns how many callers wait for their turn.
func (d *Device) Queued() int { return int(d.waiting.Load()) }

// moves says that the turn goes on.
func (d *Device) moves() { d.moved.Store(int64(time.Since(d.epoch)) + 1) }

// Stands returns since when the turn under way has not moved: nothing was sent, and nothing
// answered. The zero time: there is no turn.
func (d *Device) Stands() time.Time {
	if after := d.moved.Load(); after != 0 {
		return d.epoch.Add(time.Duration(after)) // which keeps the monotonic clock: a jump of the other is no standstill
	}
	return time.Time{}
}

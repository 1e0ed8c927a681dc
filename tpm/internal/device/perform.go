package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// perform executes one command within a turn. The response belongs to the caller.
func (d *Device) perform(t *Turn, input []byte) ([]byte, error) {
	if err := d.open(t.ctx); err != nil {
		return nil, err
	}
	if !t.begun {
		t.begun = true
		if d.sweep() {
			d.flushPatiently(t.ctx, flushGrace, false)
		} else {
			d.flushOwed(t.ctx)
		}
	}
	if !d.managed && !d.bootAsked && makesHandle(commandCode(input)) {
		if err := d.askBoot(t.ctx); err != nil {
			return nil, err
		}
	}
	rsp, err := d.roundTrip(t.ctx, input)
	for err == nil && d.makeRoom(t, ResponseCode(rsp)) {
		rsp, err = d.roundTrip(t.ctx, input)
	}
	if err != nil {
		return nil, err
	}
	h, ok := newHandle(input, rsp)
	if ok {
		d.taken(h)
	}
	t.made = h
	return rsp, nil
}

// makeRoom frees what a command failed for want of. It reports false if there is nothing more of
// ours that the turn could do without.
func (d *Device) makeRoom(t *Turn, code tpm2.TPMRC) bool {
	if !rc.SlotsFull(code) && !rc.SessionsFull(code) {
		return false
	}
	if freed, _ := d.flushOwed(t.ctx); freed {
		return true
	}
	s, found := d.evict(t, code)
	if found {
		d.log.Debug("TPM slots are full: flushing the object or session that was not used for longest; it is made again on next use", "handle", hexHandle(s.handle))
		d.oweSlots([]slot{s})
		d.flushPatiently(t.ctx, flushPatience, false)
	}
	return found
}

// evict takes the resident that gives way out of the table.
func (d *Device) evict(t *Turn, code tpm2.TPMRC) (s slot, found bool) {
	if rc.SlotsFull(code) {
		return d.residents.evictObject(t)
	}
	return d.residents.evictSession()
}

// roundTrip sends one command over the open connection. If that fails the connection is dropped,
// unless only the caller has gone.
func (d *Device) roundTrip(ctx context.Context, input []byte) ([]byte, error) {
	if d.late() && ctx.Err() != nil { // a command that had to go first, such as a flush, was left
		return nil, fmt.Errorf("before sending %v: %w", command(input), ctx.Err())
	}
	if d.conn == nil || d.late() { // or it has lost the connection
		return nil, &lostError{device: d.address.String(), cause: net.ErrClosed}
	}
	rsp, err := d.observed(ctx, input)
	if errors.Is(err, errAbandoned) {
		d.conn.lateCommand = bytes.Clone(input)
		return nil, fmt.Errorf("waiting for the answer to %v: %w", command(input), ctx.Err())
	}
	if err != nil {
		d.warnLost(input)
		d.drop(err)
		return nil, &lostError{device: d.address.String(), cause: err}
	}
	rsp = append([]byte(nil), rsp...)
	clearLayer(rsp)
	return rsp, nil
}

// warnLost tells of a slot that may be lost with the answer to a command.
func (d *Device) warnLost(input []byte) {
	if !d.managed && makesHandle(commandCode(input)) && d.loading == nil {
		d.log.Warn("TPM may keep the object or session that this command made until it restarts: the answer with its handle was lost, and this TPM has no resource manager",
			"command", command(input).String())
	}
}

// patiently sends a command again for as long as the TPM asks for it, no longer than ctx and limit
// allow. The time that the TPM takes to ask counts, too: there may be no other end to it, where
// nobody's context does.
func (d *Device) patiently(ctx context.Context, limit time.Duration, send func() ([]byte, error)) ([]byte, error) {
	var until time.Time // since the TPM asked first; a command that works needs no clock
	for pause := FirstPause; ; pause = min(2*pause, MaxPause) {
		rsp, err := send()
		if err != nil || !rc.Retryable(ResponseCode(rsp)) {
			return rsp, err
		}
		now := time.Now()
		if until.IsZero() {
			until = now.Add(limit)
		}
		if !now.Before(until) {
			return rsp, nil
		}
		if err := waiting.Sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("the TPM still answers %w: %w", ResponseCode(rsp), err)
		}
	}
}

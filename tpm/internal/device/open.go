package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// open makes sure that there is a connection with a TPM 2.0 behind it.
func (d *Device) open(ctx context.Context) error {
	if d.conn != nil {
		return nil
	}
	return d.openWithin(ctx, d.timeout)
}

func (d *Device) openWithin(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	stream, err := d.address.open(ctx)
	if err != nil {
		return err
	}
	if err := d.Attach(stream); err != nil {
		return err
	}
	d.managed = d.address.managed(stream)
	err = d.greet(ctx)
	if err == nil {
		err = d.recount(ctx)
	}
	if err != nil {
		if d.conn != nil {
			d.drop(err)
		}
		return fmt.Errorf("%w: %s: %w", ErrUnavailable, d.address, err)
	}
	d.log.Info("TPM opened", "device", d.address.String())
	return nil
}

// Attach takes a connection that is open already in place of one that would be opened. It is closed
// if it cannot be used.
func (d *Device) Attach(s Stream) error {
	c, err := newConn(s, d.timeout)
	if err != nil {
		return errors.Join(err, s.Close())
	}
	d.conn = c
	return nil
}

// recount finds out what of ours is still loaded now that there is a new connection. Behind a
// resource manager nothing is; a bare TPM keeps what it has, and it takes its slots.
func (d *Device) recount(ctx context.Context) error {
	if d.managed {
		d.boots = boots{{known: true}} // all the same: see findBoot
		return nil
	}
	d.bootAsked = false
	if d.residents.empty() && d.owed.empty() && len(d.lost) == 0 {
		return nil // it matters no sooner than something is made
	}
	if err := d.askBoot(ctx); err != nil {
		return err
	}
	d.oweSlots(d.residents.removeSessions(func(s slot) bool { return !s.boots.include(d.boots) })) // another program may have their numbers now
	for _, s := range d.residents.list() {
		if isSession(s.handle) {
			continue
		}
		name, err := readName(&greeting{ctx: ctx, device: d}, s.handle)
		if !d.ready() {
			return err
		}
		if err != nil || !bytes.Equal(name, s.name) {
			d.residents.remove(s.resident)
		}
	}
	return d.findLost(ctx)
}

// askBoot finds out in which boot the TPM is. A TPM that does not tell is put up with; an error is
// that of the connection.
func (d *Device) askBoot(ctx context.Context) error {
	err := d.findBoot(&greeting{ctx: ctx, device: d})
	if !d.ready() {
		return err
	}
	if err != nil {
		d.bootAsked, d.boots = true, boots{}
		d.log.Warn("TPM does not tell whether it was reset: objects of ours that are still loaded in it will not be flushed", "cause", err)
	}
	return nil
}

// drop gives the connection up.
func (d *Device) drop(cause error) {
	d.log.Warn("TPM connection dropped", "device", d.address.String(), "cause", cause)
	_ = d.conn.stream.Close() // it is broken anyway
	d.conn = nil
	if d.managed { // with the connection, all that was loaded over it went
		d.residents.clear()
		d.owed.clear()
	} else if d.loading != nil && len(d.lost) < maxOwed {
		d.lost = append(d.lost, owedFlush{name: d.loading, boots: d.boots})
	}
	d.loading = nil
}

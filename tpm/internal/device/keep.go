package device

import (
	"time"

	"github.com/google/go-tpm/tpm2"
)

// This file is a turn's side of what stays in the TPM from turn to turn, and how long sessions
// stay.

// Keep notes that something was just made in this turn and stays there. The Name is an object's;
// nil: it is a session.
func (t *Turn) Keep(r Resident, h tpm2.TPMHandle, name []byte) {
	t.device.residents.put(slot{resident: r, handle: h, name: name, boots: t.device.boots, turn: t})
	t.device.touch(h)
}

// Use says where something is, and that the turn uses it: it does not give way to what the turn
// loads. Found is false if it is gone.
func (t *Turn) Use(r Resident) (h tpm2.TPMHandle, found bool) {
	h, found = t.device.residents.use(r, t)
	if found {
		t.device.touch(h)
	}
	return h, found
}

// Works says that the TPM has just accepted a session: so it was started in the present boot.
func (t *Turn) Works(r Resident) { t.device.residents.refresh(r, t.device.boots) }

// Forget says that something is not where it was kept.
func (t *Turn) Forget(r Resident) { t.device.residents.remove(r) }

// Release flushes a resident, if it is there.
func (t *Turn) Release(r Resident) {
	if s, found := t.device.residents.remove(r); found {
		t.device.oweSlots([]slot{s})
		t.device.flushOwed(t.ctx)
	}
}

// GiveUp flushes an object if it is there, which is not certain.
func (t *Turn) GiveUp(h tpm2.TPMHandle, name []byte) {
	t.device.owe(h, name)
	t.device.flushOwed(t.ctx)
}

// Loading runs f, which loads an object with this Name: if the answer is lost, the object is looked
// for over the next connection.
func (t *Turn) Loading(name []byte, f func() error) error {
	t.device.loading = name
	err := f()
	if !t.device.late() { // the answer was read, or never will be
		t.device.loading = nil
	}
	return err
}

// FindBoot finds out whether the TPM was reset. Sessions do not outlive a reset: as long as a
// session that was started after FindBoot works, objects made meanwhile are of the same boot.
func (t *Turn) FindBoot() error { return t.device.findBoot(t) }

// Connection tells one connection from another. It is comparable.
type Connection struct{ conn *conn }

// Connection is the present one.
func (t *Turn) Connection() Connection { return Connection{t.device.conn} }

// Epoch identifies a connection and a boot of the TPM: facts found in one need not hold in another.
type Epoch struct {
	conn  *conn
	boots boots
}

// Epoch is the present one.
func (t *Turn) Epoch() Epoch { return Epoch{t.device.conn, t.device.boots} }

// touch notes that a session is used, and sees to it that it does not stay when nobody uses it.
func (d *Device) touch(h tpm2.TPMHandle) {
	if isSession(h) {
		d.used = time.Now()
		d.watch(d.maxIdle)
	}
}

// watch sees to it that a session which nobody uses does not stay, and that a flush which is owed
// is tried again also if no caller comes.
func (d *Device) watch(after time.Duration) {
	if d.timer != nil {
		return
	}
	d.background.Add(1)
	d.timer = time.AfterFunc(after, func() {
		defer d.background.Done()
		d.tidy()
	})
}

func (d *Device) tidy() {
	t, err := d.Begin(d.lifetime)
	if err != nil {
		return // closed: all sessions are flushed then
	}
	defer t.End()
	d.timer = nil
	d.owed.fresh = !d.owed.empty() // it is tried again at the end of this turn
	if !d.residents.sessions() {
		return
	}
	if rest := d.maxIdle - time.Since(d.used); rest > 0 {
		d.watch(rest)
		return
	}
	d.oweSlots(d.residents.removeSessions(func(slot) bool { return true }))
}

// stopWatch ends the watch over idle sessions.
func (d *Device) stopWatch() {
	if d.timer != nil && d.timer.Stop() {
		d.background.Done()
	}
	d.timer = nil
}

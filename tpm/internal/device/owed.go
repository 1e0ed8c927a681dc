package device

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/waiting"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

const (
	// maxOwed bounds the list of flushes that are still to be done. A TPM has three slots for
	// objects and three for sessions, as a rule: a list that is longer than this comes from answers
	// that no TPM gave.
	maxOwed = 16
	// maxMisses is how often the TPM must be found in another boot until a handle of the one before
	// is forgotten.
	maxMisses = 8

	// flushPatience is how long in all a flush is repeated for which nobody waits.
	flushPatience = 2 * time.Second
	// flushGrace is how long it is repeated while another caller waits for the TPM.
	flushGrace = 100 * time.Millisecond
	// closePatience bounds the flushing at the end.
	closePatience = 10 * time.Second
)

// owed lists the handles of ours that nobody needs any more and that are still loaded. A handle is
// on it from the moment at which it is given up until the TPM has said that it is free: so neither
// a context that ends, nor a TPM that puts the flush off, nor a connection that breaks can make it
// forgotten. It belongs to the turn.
//
// Handles are numbers. Without a resource manager, other programs use the same ones: after a TPM
// reset, ours may name their object. Therefore nothing is flushed from here before it was made sure
// that the TPM was not reset since the handle was made, and that an object whose Name is known
// still has it.
type owed struct {
	list  []owedFlush
	fresh bool // something was added since the last time that the list was worked off
}

type owedFlush struct {
	handle tpm2.TPMHandle
	name   []byte // nil: a session, or an object whose Name is not known
	boots  boots  // one of them it was made in
	misses int    // how often the TPM was found in another boot
}

// add notes a handle. It returns the one that there is no room for any more, or 0.
func (o *owed) add(f owedFlush) (dropped tpm2.TPMHandle) {
	o.remove(f.handle)
	if len(o.list) == maxOwed {
		dropped = o.list[0].handle
		o.list = slices.Delete(o.list, 0, 1)
	}
	o.list = append(o.list, f)
	o.fresh = true
	return dropped
}

// remove strikes a handle off: it is free, or the TPM has given it out anew.
func (o *owed) remove(h tpm2.TPMHandle) {
	o.list = slices.DeleteFunc(o.list, func(f owedFlush) bool { return sameSlot(f.handle, h) })
}

// skipOthers returns the flushes of the present boot. Those of another are void if the TPM was
// reset. They are struck off after a while only: the TPM's answer about its boot is not
// authenticated.
func (o *owed) skipOthers(now boots) []owedFlush {
	var of []owedFlush
	for i := range o.list {
		if f := &o.list[i]; f.boots.include(now) {
			f.misses = 0
			of = append(of, *f)
		} else {
			f.misses++
		}
	}
	o.list = slices.DeleteFunc(o.list, func(f owedFlush) bool { return f.misses >= maxMisses })
	return of
}

func (o *owed) clear() { *o = owed{} }

func (o *owed) empty() bool { return len(o.list) == 0 }

// toDo reports whether something is on the list that was not tried yet when nobody waited.
func (o *owed) toDo() bool { return o.fresh && !o.empty() }

// handles lists the handles for a log.
func (o *owed) handles() []string {
	var list []string
	for _, f := range o.list {
		list = append(list, hexHandle(f.handle))
	}
	return list
}

// sameSlot reports whether two handles cannot be in use at the same time. HMAC and policy sessions
// are numbered together, and to flush one a TPM may look at the number only (TPM 2.0 Part 2, 7.2).
func sameSlot(a, b tpm2.TPMHandle) bool {
	const number = 0x00ffffff
	return a == b || isSession(a) && isSession(b) && a&number == b&number
}

func isSession(h tpm2.TPMHandle) bool {
	kind := tpm2.TPMHT(h >> 24)
	return kind == tpm2.TPMHTHMACSession || kind == tpm2.TPMHTPolicySession
}

func hexHandle(h tpm2.TPMHandle) string { return fmt.Sprintf("0x%08x", uint32(h)) }

// owe notes that an object or session, which was made in the present boot as far as is known, is to
// be flushed.
func (d *Device) owe(h tpm2.TPMHandle, name []byte) {
	d.oweFlush(owedFlush{handle: h, name: name, boots: d.boots})
}

// oweSlots notes that these residents are to be flushed.
func (d *Device) oweSlots(list []slot) {
	for _, s := range list {
		if isSession(s.handle) {
			d.oweFlush(owedFlush{handle: s.handle, boots: s.boots})
		} else {
			d.owe(s.handle, s.name)
		}
	}
}

func (d *Device) oweFlush(f owedFlush) {
	if dropped := d.owed.add(f); dropped != 0 {
		d.log.Warn("too many TPM handles wait to be flushed, one is given up", "handle", hexHandle(dropped))
	}
}

// flushOwed tries each flush that is owed once. Freed reports whether a handle is free now, again
// whether the TPM has asked for a repetition.
func (d *Device) flushOwed(ctx context.Context) (freed, again bool) {
	if d.owed.empty() || !d.ready() {
		return false, false
	}
	if err := d.findBoot(&once{ctx: ctx, device: d}); err != nil {
		return false, asksAgain(err)
	}
	for _, f := range d.owed.skipOthers(d.boots) {
		gone, busy := d.flushOne(ctx, f)
		if gone {
			d.owed.remove(f.handle)
		}
		freed, again = freed || gone, again || busy
		if !d.ready() {
			break
		}
	}
	return freed, again
}

// flushOne tries one flush. Done reports that the handle is none of ours any more.
func (d *Device) flushOne(ctx context.Context, f owedFlush) (done, busy bool) {
	if ours, busy := d.stillOurs(ctx, f); !ours {
		return !busy, busy
	}
	rsp, err := d.roundTrip(ctx, flushCommand(f.handle))
	if err != nil {
		return false, false
	}
	code := ResponseCode(rsp)
	if code != tpm2.TPMRCSuccess {
		d.log.Debug("TPM handle was not flushed", "handle", hexHandle(f.handle), "code", code)
	}
	return freedBy(code), rc.Retryable(code)
}

// freedBy reports whether the answer to TPM2_FlushContext says that the handle is free: flushed
// now, or long ago.
func freedBy(code tpm2.TPMRC) bool {
	return code == tpm2.TPMRCSuccess || rc.Is(code, tpm2.TPMRCHandle, tpm2.TPMRCValue, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceS0)
}

// stillOurs makes sure that an object has the Name that it had. Another one is another program's.
func (d *Device) stillOurs(ctx context.Context, f owedFlush) (ours, busy bool) {
	if d.managed || f.name == nil {
		return true, false
	}
	name, err := readName(&once{ctx: ctx, device: d}, f.handle)
	if err == nil {
		return bytes.Equal(name, f.name), false
	}
	return false, !rc.StaleHandle(err) // not known now: ask again later
}

// flushPatiently makes the owed flushes for as long as the TPM asks for repetitions and patience
// lasts. If it yields, it ends after flushGrace when another caller waits for the TPM.
func (d *Device) flushPatiently(ctx context.Context, patience time.Duration, yields bool) {
	start := time.Now()
	for pause := FirstPause; ; pause = min(2*pause, MaxPause) {
		_, again := d.flushOwed(ctx)
		took := time.Since(start)
		if !again || took >= patience || yields && took >= flushGrace && d.waiting.Load() > 0 {
			return
		}
		if err := waiting.Sleep(ctx, pause); err != nil {
			return
		}
	}
}

// boot tells one start of the TPM from another: by the counters of TPM2_ReadClock (TPM 2.0 Part 1,
// 36.3). Loaded objects and sessions do not outlive it.
type boot struct {
	known            bool
	resets, restarts uint32
}

// boots are the last two boots that the TPM was found in, the newer first. An object made after
// both were found is still there if the TPM is in either of them now: the counters only rise, so it
// was not reset in between. So one false answer in between costs nothing.
type boots [2]boot

// include reports whether the newest of the present boots is one of these.
func (b boots) include(present boots) bool {
	return present[0].known && (b[0] == present[0] || b[1] == present[0])
}

// findBoot finds out in which boot the TPM is. Behind a resource manager it is all the same: nobody
// else can get at our handles.
func (d *Device) findBoot(t transport.TPM) error {
	if d.managed {
		return nil
	}
	rsp, err := tpm2.ReadClock{}.Execute(t)
	if err != nil {
		return err
	}
	d.bootAsked = true
	clock := rsp.CurrentTime.ClockInfo
	now := boot{known: true, resets: clock.ResetCount, restarts: clock.RestartCount}
	if now == d.boots[0] {
		return nil
	}
	if d.boots[0].known {
		d.log.Info("TPM was reset: objects and sessions in it are gone")
	}
	d.boots = boots{now, d.boots[0]}
	return nil
}

// asksAgain is retryable of an error.
func asksAgain(err error) bool {
	var code tpm2.TPMRC
	return errors.As(err, &code) && rc.Retryable(code)
}

// once is a transport that sends each command once, whatever the TPM answers.
type once struct {
	ctx    context.Context
	device *Device
}

func (o *once) Send(input []byte) ([]byte, error) { return o.device.roundTrip(o.ctx, input) }

// findLost looks for keys of ours whose TPM2_Load was under way when a connection broke: the TPM
// may have executed it, and the handle was never read. An object that has the Name of such a key,
// and is not where we know that key to be, is flushed. What other commands have left behind cannot
// be told from what other programs have loaded, and is left alone.
func (d *Device) findLost(ctx context.Context) error {
	if len(d.lost) == 0 {
		return nil
	}
	data, err := Capability(&once{ctx: ctx, device: d}, tpm2.TPMCapHandles, uint32(tpm2.TPMHTTransient)<<24, maxOwed)
	if err != nil {
		return err
	}
	list, err := data.Handles()
	if err != nil {
		return err
	}
	for _, h := range list.Handle {
		name, err := readName(&once{ctx: ctx, device: d}, h)
		if !d.ready() {
			return err
		}
		isIt := func(lost owedFlush) bool { return err == nil && bytes.Equal(lost.name, name) }
		if i := slices.IndexFunc(d.lost, isIt); i >= 0 && !d.residents.has(h) {
			d.oweFlush(owedFlush{handle: h, name: name, boots: d.lost[i].boots})
		}
	}
	d.lost = nil
	return nil
}

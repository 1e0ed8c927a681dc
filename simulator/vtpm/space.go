package vtpm

import (
	"errors"

	"github.com/google/go-tpm/tpm2"
)

// space is what a guest has loaded, by the handles that it knows: those of sessions are the TPM's,
// which stay the same when a session is put aside; those of objects are its own.
type space map[tpm2.TPMHandle]*entry

// entry is a transient object or session, in the TPM or put aside.
type entry struct {
	real  tpm2.TPMHandle    // in the TPM
	aside *tpm2.TPMSContext // nil: it is in the TPM
}

// firstObject is the handle that a guest gets for its first object, as from a TPM of its own.
const firstObject tpm2.TPMHandle = 0x80000000

// enter gives the TPM's slots to g: what the guest before it has loaded is put aside, and what g
// had comes back. Its error is the TPM's where a slot is missing, because a command was sent past
// the slots' owner ([TPM.Send]).
func (g *guest) enter() error {
	if before := g.tpm.resident; before != g && !g.tpm.shared {
		if before != nil {
			before.save()
		}
		g.tpm.resident = g
	}
	return g.load()
}

// save puts the TPM's objects and sessions aside. One that the TPM does not save has ended by
// itself, as sessions and sequences do, or is a session for which the TPM wants an older one back
// first (TPM_RC_CONTEXT_GAP): this one is lost then, as with the kernel.
func (g *guest) save() {
	tpm := locked{g.tpm}
	for h, e := range g.space {
		if e.aside != nil {
			continue
		}
		rsp, err := tpm2.ContextSave{SaveHandle: e.real}.Execute(tpm)
		if err != nil {
			delete(g.space, h)
		} else {
			e.aside = &rsp.Context
		}
		if err != nil || !session(h) { // a session that was saved has left the TPM
			_, _ = tpm2.FlushContext{FlushHandle: e.real}.Execute(tpm) // it may have ended
		}
	}
}

// load brings back the objects and sessions put aside. One that the TPM does not take any more is
// forgotten: another connection has flushed it, or its hierarchy was cleared.
func (g *guest) load() error {
	for h, e := range g.space {
		if e.aside == nil {
			continue
		}
		rsp, err := tpm2.ContextLoad{Context: *e.aside}.Execute(locked{g.tpm})
		switch {
		case errors.Is(err, tpm2.TPMRCObjectMemory), errors.Is(err, tpm2.TPMRCSessionMemory):
			return err
		case err != nil:
			delete(g.space, h)
		default:
			e.real, e.aside = rsp.LoadedHandle, nil
		}
	}
	return nil
}

// flush ends all that the guest has.
func (g *guest) flush() {
	for h, e := range g.space {
		delete(g.space, h)
		if e.aside == nil || session(h) { // an object that is put aside takes nothing of the TPM
			// Sessions and sequences may have ended by themselves: then there is nothing to flush.
			_, _ = tpm2.FlushContext{FlushHandle: e.real}.Execute(locked{g.tpm})
		}
	}
}

// adopt enters what the guest has loaded and returns the handle that it knows it by. A handle that
// comes again was free before: the object or session that had it has ended by itself.
func (g *guest) adopt(real tpm2.TPMHandle) tpm2.TPMHandle {
	h := real
	if session(real) {
		for other := range g.tpm.guests {
			delete(other.space, real)
		}
	} else {
		if ended, found := g.seenAs(real); found {
			delete(g.space, ended)
		}
		for h = firstObject; g.space[h] != nil; h++ {
		}
	}
	g.space[h] = &entry{real: real}
	return h
}

// seenAs returns the guest's handle of an object in the TPM. The guest is the one that has the
// slots.
func (g *guest) seenAs(real tpm2.TPMHandle) (tpm2.TPMHandle, bool) {
	for h, e := range g.space {
		if e.real == real {
			return h, true
		}
	}
	return 0, false
}

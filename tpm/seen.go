package tpm

import (
	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// seen is what the TPM said of objects at persistent handles, so that it need not be asked for each
// command with one of them. It is good for one connection. Other programs may free a handle or put
// another object there: whoever goes by it names the object by its Name in a protected command,
// which then fails, and asks the TPM anew ([turn.mayBeStale]).
type seen struct {
	objects map[tpm2.TPMHandle]object
	over    device.Connection // where it was said
}

// salted says that a session was salted to an object. What the TPM said of the object is good for
// one session: the next one is not started before it was made sure that nobody shows another
// storage root in the meantime.
func (t *turn) salted(root object) { t.forgetSeen(root.handle) }

// look is [readPublic] of a persistent handle, or what it gave before. Passwords protect no Name: in
// plain sessions, the TPM is asked each time.
func (t *turn) look(h tpm2.TPMHandle) (object, error) {
	if err := t.Connect(); err != nil {
		return object{}, err
	}
	if s := &t.tpm.seen; s.over == t.Connection() && !t.tpm.sessions.plain {
		if o, found := s.objects[h]; found {
			o.recalled = true
			return o, nil
		}
	}
	return t.lookAgain(h)
}

// lookAgain asks the TPM in any case.
func (t *turn) lookAgain(h tpm2.TPMHandle) (object, error) {
	t.forgetSeen(h)
	o, err := readPublic(t, h)
	if err != nil {
		return object{}, err
	}
	s := &t.tpm.seen
	if s.over != t.Connection() || s.objects == nil {
		*s = seen{make(map[tpm2.TPMHandle]object), t.Connection()}
	}
	s.objects[h] = o
	return o, nil
}

// forgetSeen has the TPM asked about a handle again.
func (t *turn) forgetSeen(h tpm2.TPMHandle) { delete(t.tpm.seen.objects, h) }

// mayBeStale reports whether a command with an object may have failed because something else is at
// its handle now than was seen there. The TPM is then asked again. A failure that the TPM counts is
// not risked twice.
func (t *turn) mayBeStale(o object, err error) bool {
	if !o.recalled || err == nil {
		return false
	}
	t.forgetSeen(o.handle)
	return staleHandle(err) || rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCValue, tpm2.TPMRCKey, tpm2.TPMRCAttributes, tpm2.TPMRCType, tpm2.TPMRCSize,
		tpm2.TPMRCScheme, tpm2.TPMRCECCPoint)
}

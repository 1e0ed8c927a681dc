package tpm

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// This file finds the parents of keys. A parent is known by its Name, the digest of all that it is,
// and not by where it once was: persistent handles are given away, moved and freed by other
// programs, and a primary can be made again.

// ErrParentUnknown is in the error for a storage key that was not found, where not all places could
// be looked into: nothing says that it, or a key under it, is lost. See [ParentError].
var ErrParentUnknown = errors.New("where the parent of the keys is could not be found out")

// ParentError has the facts about a storage key that is not where it was.
type ParentError struct {
	// Name is the storage key's; nil if only the keys under it could have told it.
	Name []byte
	// Unseen are the reasons why not all places could be looked into. If there are none, all were.
	Unseen []error
	// Commands are lines for the shell, each of which makes a storage key that may be the one and
	// puts it at a free persistent handle, where it is then found. With Found, there is one, and it
	// brings back the very key.
	Commands []string
	Found    bool
	// Gone says that all places were looked into, and that the TPM is the one that was noted and
	// was not cleared: the storage key was freed, and cannot be made again without knowing how it
	// was made.
	Gone bool
	// Password says that the commands need the owner's password, in the variable OWNER_PASSWORD.
	Password bool

	what  string
	cause error // ErrStorageRoot, ErrForeignTPM or ErrParentUnknown
}

// Lost reports whether the key was looked for wherever it could be, and cannot be made again
// either.
func (e *ParentError) Lost() bool { return !errors.Is(e.cause, ErrParentUnknown) && !e.Found }

func (e *ParentError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%v: %s", e.cause, e.what)
	if e.Name != nil {
		fmt.Fprintf(&b, ", with Name %x", e.Name)
	}
	for i, err := range e.Unseen {
		b.WriteString([]string{"; not looked into: ", ", "}[min(i, 1)])
		b.WriteString(err.Error())
	}
	return b.String()
}

// Unwrap returns what kind of error it is. Why places were not looked into is for people to read: a
// code of the TPM among that is of another object than the command was about that failed.
func (e *ParentError) Unwrap() error { return e.cause }

// place is where a storage key may be: at a persistent handle, or, if that is 0, made on the spot
// as one of the [knownPrimaries].
type place struct {
	handle  tpm2.TPMHandle
	primary int
}

func (p place) String() string {
	if p.handle != 0 {
		return fmt.Sprintf("0x%08x", uint32(p.handle))
	}
	return knownPrimaries()[p.primary].title
}

// search goes through the places where a storage key may be.
type search struct {
	turn       *turn
	first      []place          // to be looked into before all others
	persistent bool             // only persistent handles, and the derived root
	seen       map[place]bool   // looked into
	unseen     []error          // why others were not
	handles    []tpm2.TPMHandle // in use, or to be used by the commands for the shell
	listed     []tpm2.TPMHandle // in use
	blind      bool             // some places could not be looked into, which may be over soon
	password   bool             // the owner hierarchy has one that is not known

	look func(place, object) // called with each object found on the way; may be nil
}

// places lists the places in the order in which they are looked into: those that cost least first.
func (s *search) places() iter.Seq[place] {
	return func(yield func(place) bool) {
		next := func(p place) bool {
			if s.seen[p] {
				return true
			}
			s.seen[p] = true
			return yield(p)
		}
		for _, p := range append(slices.Clone(s.first), place{primary: derivedRoot}) {
			if !next(p) {
				return
			}
		}
		for _, h := range s.listHandles() {
			if !next(place{handle: h}) {
				return
			}
		}
		for i := range knownPrimaries() {
			if !s.persistent && !next(place{primary: i}) {
				return
			}
		}
	}
}

// The persistent handles of storage keys: TCG Registry of Reserved TPM 2.0 Handles, 2.3.1.
const (
	firstStorageHandle tpm2.TPMHandle = 0x81000000
	lastStorageHandle  tpm2.TPMHandle = 0x8100ffff
	maxHandles                        = 254 // that are asked for at once: what fits into an answer
)

// listHandles asks which persistent handles there are that may be storage keys'.
func (s *search) listHandles() []tpm2.TPMHandle {
	handles, err := storageHandles(s.turn)
	if err != nil {
		s.unseen = append(s.unseen, fmt.Errorf("the persistent handles: %w", err))
		s.blind = true
		return nil
	}
	s.handles, s.listed = handles, slices.Clone(handles)
	return handles
}

// storageHandles lists the persistent handles in use that the registry has for storage keys (TCG
// Registry of Reserved TPM 2.0 Handles, 2.3.1).
func storageHandles(t transport.TPM) ([]tpm2.TPMHandle, error) {
	data, err := device.Capability(t, tpm2.TPMCapHandles, uint32(firstStorageHandle), maxHandles)
	if err != nil {
		return nil, err
	}
	list, err := data.Handles()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(list.Handle, func(h tpm2.TPMHandle) bool { return h < firstStorageHandle || h > lastStorageHandle }), nil
}

// free is a persistent handle where nothing is, not before first.
func (s *search) free(first tpm2.TPMHandle) tpm2.TPMHandle {
	for h := first; h <= lastStorageHandle; h++ {
		if !slices.Contains(s.handles, h) {
			return h
		}
	}
	return first
}

// find returns the first object that fits, which the caller releases. Found is false if there is
// none; an error ends the search.
func (s *search) find(fits func(place, object) (bool, error)) (o object, at place, found bool, err error) {
	s.seen = make(map[place]bool)
	for p := range s.places() {
		o, err := openPlace(s.turn, p)
		if over := s.note(p, err); over != nil {
			return object{}, place{}, false, over
		}
		if err != nil {
			continue
		}
		if s.look != nil {
			s.look(p, o)
		}
		ok, err := fits(p, o)
		if !ok && err == nil && o.recalled {
			o, ok, err = s.fitsNow(p, o, fits)
		}
		if ok && err == nil {
			return o, p, true, nil
		}
		s.turn.release(o)
		if err != nil {
			return object{}, place{}, false, err
		}
	}
	return object{}, place{}, false, nil
}

// fitsNow asks whether the object that is at a place now fits, after the earlier one there did not
// fit or has gone.
func (s *search) fitsNow(p place, earlier object, fits func(place, object) (bool, error)) (object, bool, error) {
	o, err := s.turn.lookAgain(p.handle)
	if over := s.note(p, err); over != nil || err != nil {
		return earlier, false, over
	}
	if s.look != nil {
		s.look(p, o)
	}
	ok, err := fits(p, o)
	return o, ok, err
}

// note decides what follows from an error of opening a place: that nothing is there, that its
// content is unknown, or, by returning an error, that further search is useless.
func (s *search) note(p place, err error) (over error) {
	var code tpm2.TPMRC
	switch {
	case err == nil:
	case s.turn.Context().Err() != nil, errors.Is(err, ErrUnavailable), errors.Is(err, ErrClosed):
		return err
	case errors.As(err, &code) && endsSearch(code):
		return err
	case p.handle != 0 && rc.Of(err, tpm2.TPMRCHandle):
	case p.handle == 0 && cannotMake(code):
	case p.handle == 0:
		s.noteHierarchy(knownPrimaries()[p.primary].hierarchy, err)
	default:
		s.blind = true
		s.unseen = append(s.unseen, fmt.Errorf("%v: %w", p, err))
	}
	return nil
}

// noteHierarchy notes once that primaries of a hierarchy cannot be made.
func (s *search) noteHierarchy(h tpm2.TPMHandle, err error) {
	name := map[tpm2.TPMHandle]string{tpm2.TPMRHOwner: "owner", tpm2.TPMRHEndorsement: "endorsement"}[h]
	text := "the primaries of the " + name + " hierarchy"
	if rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		text = "the primaries of the " + name + " hierarchy, which has a password"
		s.password = s.password || h == tpm2.TPMRHOwner
	}
	for _, known := range s.unseen {
		if strings.HasPrefix(known.Error(), text) {
			return
		}
	}
	s.blind = true
	s.unseen = append(s.unseen, fmt.Errorf("%s (%w)", text, rc.Advise(err)))
}

// cannotMake reports whether a TPM says that it does not make keys of a template, so that none of
// its keys is of it.
func cannotMake(code tpm2.TPMRC) bool {
	return rc.Is(code, tpm2.TPMRCValue, tpm2.TPMRCKeySize, tpm2.TPMRCCurve, tpm2.TPMRCAsymmetric, tpm2.TPMRCSymmetric,
		tpm2.TPMRCHash, tpm2.TPMRCType, tpm2.TPMRCAttributes, tpm2.TPMRCSize)
}

// openPlace reads the object at a persistent handle, or makes a primary.
func openPlace(t *turn, p place) (object, error) {
	if p.handle != 0 {
		return t.look(p.handle)
	}
	return createPrimary(t, p.primary)
}

// findNamed looks for the storage key with this Name. It is looked for first where it was last,
// then in the places given.
func findNamed(t *turn, s *search, name []byte) (o object, where place, found bool, err error) {
	if last, known := t.tpm.known.parents[string(name)]; known {
		s.first = append([]place{last}, s.first...)
	}
	o, where, found, err = s.find(func(p place, o object) (bool, error) {
		if !bytes.Equal(o.name, name) {
			return false, nil
		}
		if t.tpm.known.locked[at(o)] {
			s.blind = true
			s.unseen = append(s.unseen, fmt.Errorf("%v: the storage key there is the right one, and has a password of its own", p))
			return false, nil
		}
		if err := t.maySpendTry(o); err != nil {
			s.blind = true
			s.unseen = append(s.unseen, fmt.Errorf("%v was not tried: %w", p, err))
			return false, nil
		}
		return true, nil
	})
	if err == nil && !found {
		clear(t.tpm.known.locked) // to be tried again next time
	}
	if found {
		t.remember(o, where)
	}
	return o, where, found, err
}

// remember notes where a storage key is. Those that are made anew cost more than to look again for
// a cheaper place; the derived one does not.
func (t *turn) remember(o object, p place) {
	if p.handle != 0 || p.primary == derivedRoot {
		t.tpm.known.parents[string(o.name)] = p
	}
}

// under runs f with the storage key that is found. A password is no part of a Name: one at a
// persistent handle may have one that the same key elsewhere, or made anew, has not. So where f is
// refused for want of a password, another is looked for.
func (t *turn) under(find func(*turn) (object, error), f func(object) error) error {
	for {
		o, err := find(t)
		if err != nil {
			return err
		}
		err = f(o)
		t.release(o)
		if t.mayBeStale(o, err) {
			continue
		}
		if !rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) || o.transient() || t.tpm.known.locked[at(o)] {
			return err
		}
		if !t.exchanged(o) {
			t.tpm.known.refuses(o)
		}
	}
}

// exchanged reports whether another object is at the handle now than was seen there before: that
// one wants a password, and nothing is known of the one that was seen. It is asked anew by whoever
// looks next.
func (t *turn) exchanged(o object) bool {
	if !o.recalled {
		return false
	}
	now, err := t.lookAgain(o.handle)
	t.forgetSeen(o.handle)
	return err != nil || !bytes.Equal(now.name, o.name)
}

// restore is the command that puts a primary back to a persistent handle.
func (s *search) restore(primary int) string {
	return knownPrimaries()[primary].persistAt(s.free(HandleSRK), s.turn.tpm.ownerHasPassword)
}

// guesses are the commands for the two storage keys that are by far the most frequent. They are for
// an operator that has the owner's password, which the agent does not have. None goes to the handle
// for storage roots: a wrong one there would be taken for the platform's by this agent and by
// others.
func (s *search) guesses() []string {
	if !s.password {
		return nil
	}
	h := s.free(HandleSRK + 1)
	list := []string{knownPrimaries()[derivedRoot].persistAt(h, true)}
	s.handles = append(s.handles, h)
	return append(list, knownPrimaries()[1].persistAt(s.free(HandleSRK+1), true))
}

// primaryHierarchy tells the hierarchy of a primary: that in which it was made here, or by its
// qualified name, which is that of the hierarchy's handle and the Name (TPM 2.0 Part 1, 16). It is
// 0 where the object may be no primary.
func primaryHierarchy(o object) tpm2.TPMHandle {
	if o.transient() {
		return knownPrimaries()[o.primary].hierarchy
	}
	for _, h := range []tpm2.TPMHandle{tpm2.TPMRHOwner, tpm2.TPMRHEndorsement, tpm2.TPMRHPlatform, tpm2.TPMRHNull} {
		sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(h)), o.name...))
		if len(o.qualified) > 2 && bytes.Equal(o.qualified[2:], sum[:]) { // SHA-256, as all that is used here
			return h
		}
	}
	return 0
}

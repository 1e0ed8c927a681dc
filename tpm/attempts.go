package tpm

import (
	"cmp"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
)

// loadUnder finds the parent of a key file and loads the key under it. Parent is the Name of that,
// or nil if it is not known: then the places where it may be are tried, since TPM2_Load under
// another key fails without having done anything. At is the parent that it was.
func (f *KeyFile) loadUnder(t *turn, parent []byte) (loaded object, at []byte, err error) {
	own, err := f.ownPlace()
	if err != nil {
		return object{}, nil, err
	}
	s := &search{turn: t, first: []place{own}}
	if parent == nil {
		return f.loadSomewhere(s, nil)
	}
	missing := false
	err = t.under(func(t *turn) (object, error) {
		o, _, found, err := findNamed(t, s, parent)
		missing = err == nil && !found
		if missing {
			return object{}, errNotFound
		}
		return o, err
	}, func(o object) error {
		loaded, err = f.loadAt(t, o)
		return explainLoadUnder(o, err)
	})
	if missing {
		return f.loadSomewhere(&search{turn: t, first: []place{own}}, parent) // a note may be wrong; the TPM is not
	}
	return loaded, parent, err
}

// errNotFound ends [turn.under].
var errNotFound = errors.New("there is no such storage key")

// explainLoadUnder is explainLoad where the parent is known.
func explainLoadUnder(parent object, err error) error {
	if _, other := errors.AsType[*ParentError](err); err == nil || other {
		return err
	}
	if codeOf(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return explainParent(parent, err)
	}
	explained := explainLoad(err)
	if codeOf(err, tpm2.TPMRCIntegrity) && primaryHierarchy(parent) == tpm2.TPMRHEndorsement {
		return fmt.Errorf("%w (its parent is a primary of the endorsement hierarchy: that one's Name outlives TPM2_Clear, and the keys under it do not)", explained)
	}
	return explained
}

// ownPlace is where the file says that the parent is.
func (f *KeyFile) ownPlace() (place, error) {
	if f.Parent == handleOwner {
		return place{primary: derivedRoot}, nil
	}
	if byte(f.Parent>>24) != byte(tpm2.TPMHTPersistent) {
		return place{}, fmt.Errorf("parent %s is neither the owner hierarchy (0x40000001) nor a persistent key", tcg.Handle(uint32(f.Parent)))
	}
	return place{handle: f.Parent}, nil
}

// loadSomewhere tries to load the key under each storage key that there may be, the one that the
// file says first, then the storage root. Parent is the Name of the parent, which was not found, or
// nil.
func (f *KeyFile) loadSomewhere(s *search, parent []byte) (loaded object, at []byte, err error) {
	if root, known := s.turn.scheduler.parents[string(s.turn.scheduler.sessions.rootName)]; known {
		s.first = append(s.first, root)
	}
	a := &attempts{file: f, search: s, own: s.first[0], tried: make(map[string]bool), passedOver: make(map[string]error)}
	o, _, found, err := s.find(a.load)
	if err != nil {
		return object{}, nil, err
	}
	if found {
		s.turn.release(o)
		return a.loaded, o.name, nil
	}
	for name, err := range a.passedOver {
		if !a.tried[name] {
			s.unseen = append(s.unseen, err)
		}
	}
	if len(s.unseen) > 0 {
		return object{}, nil, &ParentError{Name: parent, Unseen: s.unseen, Commands: s.guesses(), Password: s.password, cause: ErrParentUnknown,
			what: "no storage key that was found is the one that the key was made under"}
	}
	if a.refused == nil {
		return object{}, nil, &ParentError{Name: parent, cause: ErrForeignTPM, what: "there is no storage key that it could have been made under"}
	}
	return object{}, nil, a.refused
}

// attempts are the storage keys under which a key file was tried.
type attempts struct {
	file       *KeyFile
	search     *search
	own        place // that the file names
	loaded     object
	refused    error            // the first that says: not this parent
	tried      map[string]bool  // by Name
	passedOver map[string]error // by Name: why not
}

// load tries one. It is what [search.find] asks.
func (a *attempts) load(p place, o object) (bool, error) {
	name, t := string(o.name), a.search.turn
	if !storageKey(&o.public) || a.tried[name] {
		return false, nil
	}
	if p != a.own && !o.transient() && !o.public.ObjectAttributes.NoDA {
		a.passedOver[name] = fmt.Errorf("%v was not tried, since the TPM counts wrong passwords for it", p)
		return false, nil
	}
	a.tried[name] = true
	loaded, err := a.file.loadAt(t, o)
	_, root := errors.AsType[*ParentError](err) // of the storage root, which the session is salted to
	var code tpm2.TPMRC
	switch {
	case err == nil:
		a.loaded = loaded
		return true, nil
	case root, !errors.As(err, &code):
		return false, err
	case codeIs(code, tpm2.TPMRCIntegrity):
		a.refused = cmp.Or(a.refused, explainLoadUnder(o, err))
	case codeIs(code, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) && !o.transient(): // those that were made here have no password
		a.passedOver[name] = explainParent(o, err)
		delete(a.tried, name) // it may be made anew, without the password
	case p == a.own, o.transient():
		return false, explainLoad(err)
	}
	return false, nil
}

// storageKey reports whether keys can be made under an object.
func storageKey(p *tpm2.TPMTPublic) bool {
	a := p.ObjectAttributes
	return a.Restricted && a.Decrypt && !a.SignEncrypt
}

package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/tcg"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// loadUnder loads a key file under the storage key that it was made under, wherever that is, in one
// pass: first where the parent was last, then where the file says, then in all other places. Parent
// is the Name of the parent, or nil if it is not known. It says where to begin and not where to
// end: a note may be wrong, and TPM2_Load under another key fails without having done anything. At
// is the parent that it was. UsedAtOnce is of [LoadOptions].
func (f *KeyFile) loadUnder(t *turn, parent []byte, usedAtOnce bool) (loaded object, at []byte, err error) {
	own, err := f.ownPlace()
	if err != nil {
		return object{}, nil, err
	}
	sought := f.soughtParent(parent)
	if err := t.missed(sought); err != nil {
		return object{}, nil, err
	}
	a := &attempts{file: f, usedAtOnce: usedAtOnce, parent: parent, own: own, search: &search{turn: t}, tried: make(map[string]bool), passedOver: make(map[string]error)}
	a.search.first = a.begin()
	o, p, found, err := a.search.find(a.load)
	if err != nil {
		return object{}, nil, err
	}
	if !found {
		err := a.verdict()
		t.miss(sought, a.search, err)
		return object{}, nil, err
	}
	t.remember(o, p)
	t.release(o)
	return a.loaded, o.name, nil
}

// explainLoadUnder is explainLoad where the parent is known.
func explainLoadUnder(parent object, err error) error {
	explained := explainLoad(err)
	if rc.Of(err, tpm2.TPMRCIntegrity) && primaryHierarchy(parent) == tpm2.TPMRHEndorsement {
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

// attempts are the storage keys under which a key file was tried.
type attempts struct {
	file *KeyFile
	// usedAtOnce is of [LoadOptions].
	usedAtOnce bool
	parent     []byte // Name of the parent, as it was noted; nil: it was not
	own        place  // that the file names
	search     *search
	loaded     object

	noted      bool             // the noted parent was found
	ownFound   bool             // something is where the file says
	refused    error            // the first that says: not this parent; the noted parent's before others'
	fault      error            // the first that says anything else of the key, from a likely parent
	lockout    error            // the first that says that the TPM is in lockout
	tried      map[string]bool  // by Name
	passedOver map[string]error // by Name: why not
}

// begin lists where to look first.
func (a *attempts) begin() []place {
	var first []place
	known := a.search.turn.tpm.known.parents
	if last, ok := known[string(a.parent)]; ok {
		first = append(first, last)
	}
	first = append(first, a.own)
	if root, ok := known[string(a.search.turn.tpm.known.root)]; ok {
		first = append(first, root)
	}
	return first
}

// load tries one. It is what [search.find] asks.
func (a *attempts) load(p place, o object) (bool, error) {
	if o.recalled {
		return a.loadUnasked(p, o)
	}
	name := string(o.name)
	a.noted = a.noted || a.isNoted(o)
	a.ownFound = a.ownFound || p == a.own
	if !storageKey(&o.public) || a.tried[name] {
		return false, nil
	}
	if !o.mayCount() || a.search.turn.tpm.known.counted[at(o)] {
		return a.loadUnder(p, o)
	}
	if !a.likely(p, o) {
		a.passedOver[name] = fmt.Errorf("%v was not tried, since the TPM counts wrong passwords for it", p)
		return false, nil
	}
	if again, found, err := a.search.makeAgain(o); found || err != nil {
		defer a.search.turn.release(again)
		if err != nil {
			return false, err
		}
		return a.loadUnder(p, again)
	}
	if err := a.search.turn.maySpendTry(o); err != nil {
		a.pass(o, fmt.Errorf("%v was not tried: %w", p, err))
		return false, nil
	}
	return a.loadUnder(p, o)
}

// loadUnasked tries to load the key under an object that was seen there earlier. What the TPM says
// against it says nothing of the key: something else may be there now. No failure is risked that
// the TPM would count.
func (a *attempts) loadUnasked(p place, o object) (bool, error) {
	if o.mayCount() || !storageKey(&o.public) || !a.likely(p, o) {
		return false, nil
	}
	loaded, err := a.file.loadAt(a.search.turn, o, a.usedAtOnce)
	_, root := errors.AsType[*ParentError](err)
	var code tpm2.TPMRC
	switch {
	case err == nil:
		a.loaded = loaded
	case root, !errors.As(err, &code), endsSearch(code):
		return false, err
	}
	return err == nil, nil
}

func (a *attempts) isNoted(o object) bool { return a.parent != nil && bytes.Equal(o.name, a.parent) }

// likely reports whether an object is a parent that the key's owner, or a note, names.
func (a *attempts) likely(p place, o object) bool { return p == a.own || a.isNoted(o) }

// pass notes why a storage key was not tried, or not to an end.
func (a *attempts) pass(o object, err error) {
	if rc.Of(err, tpm2.TPMRCLockout) && a.lockout == nil {
		a.lockout = err
	}
	a.passedOver[string(o.name)] = err
	a.search.blind = true
}

// loadUnder tries to load the key under an object, and notes what the TPM says.
func (a *attempts) loadUnder(p place, o object) (bool, error) {
	name, t := string(o.name), a.search.turn
	a.tried[name] = true
	loaded, err := a.file.loadAt(t, o, a.usedAtOnce)
	_, root := errors.AsType[*ParentError](err) // of the storage root, which the session is salted to
	var code tpm2.TPMRC
	switch {
	case err == nil:
		a.loaded = loaded
		if o.mayCount() {
			t.tpm.known.counted[at(o)] = true
		}
		return true, nil
	case root, !errors.As(err, &code), endsSearch(code):
		return false, err
	case o.transient() && rc.Is(code, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail), !rc.Is(code, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) && sessionFault(code):
		return false, err // a primary made here has no password, so the TPM refuses the session
	case rc.Is(code, tpm2.TPMRCIntegrity):
		if a.refused == nil || a.isNoted(o) {
			a.refused = explainLoadUnder(o, err)
		}
	case rc.Is(code, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail):
		t.tpm.known.refuses(o)
		a.pass(o, explainParent(o, err))
		delete(a.tried, name) // it may be made anew, without the password
	case rc.Is(code, tpm2.TPMRCLockout):
		a.pass(o, fmt.Errorf("%v: %w", p, err))
		delete(a.tried, name)
	case a.likely(p, o), o.transient():
		if a.fault == nil {
			a.fault = explainLoad(err)
		}
	case !rc.Is(code, notUnderThis...):
		a.pass(o, fmt.Errorf("%v: %w", p, err))
		delete(a.tried, name)
	}
	return false, nil
}

// notUnderThis are the codes of TPM2_Load, besides TPM_RC_INTEGRITY, by which a TPM says that a key
// is of another kind than those that are made under a parent: another hash of the integrity value,
// or attributes that do not go together (TPM 2.0 Part 3, 12.2).
var notUnderThis = []tpm2.TPMRC{tpm2.TPMRCType, tpm2.TPMRCAttributes, tpm2.TPMRCSize, tpm2.TPMRCInsufficient, tpm2.TPMRCHash, tpm2.TPMRCBinding}

// endsSearch reports whether a code is about the state of the TPM, so that it would say the same of
// any parent, and nothing follows from it for the key.
func endsSearch(code tpm2.TPMRC) bool {
	return rc.Is(code, tpm2.TPMRCMemory, tpm2.TPMRCFailure, tpm2.TPMRCNVUnavailable, tpm2.TPMRCNVRate, tpm2.TPMRCInitialize) ||
		rc.SlotsFull(code) || rc.SessionsFull(code) || rc.Retryable(code)
}

// verdict says why the key was not loaded, after all places were looked into.
func (a *attempts) verdict() error {
	s := a.search
	for name, err := range a.passedOver {
		if !a.tried[name] {
			s.unseen = append(s.unseen, err)
		}
	}
	notFound := &ParentError{Name: a.parent, Unseen: s.unseen, Password: s.password, cause: ErrParentUnknown,
		what: "no storage key that was found is the one that the key was made under"}
	switch {
	case a.lockout != nil:
		return a.lockout
	case a.fault != nil:
		return a.fault
	case len(s.unseen) > 0:
		notFound.Commands = s.guesses()
		return notFound
	case a.parentIsGone() && s.turn.rootIsThere():
		notFound.Gone = true
		notFound.what = "the storage key that the key was made under is at no persistent handle, and is none that can be made again without knowing how it was made"
		return notFound
	case a.refused == nil:
		return &ParentError{Name: a.parent, cause: ErrForeignTPM, what: "there is no storage key that it could have been made under"}
	}
	return a.refused
}

// parentIsGone reports whether the parent is known and was not found: by its Name, or else by the
// persistent handle that the file names.
func (a *attempts) parentIsGone() bool {
	if a.parent != nil {
		return !a.noted
	}
	return a.own.handle != 0 && !a.ownFound
}

// rootIsThere reports whether the TPM has the storage root that was noted. If so, it was not
// cleared since, and keys under another storage key are not lost either.
func (t *turn) rootIsThere() bool {
	if !t.tpm.known.rootNoted {
		return false
	}
	o, err := storageRoot(t)
	if err == nil {
		t.release(o)
	}
	return err == nil
}

// storageKey reports whether keys can be made under an object.
func storageKey(p *tpm2.TPMTPublic) bool {
	a := p.ObjectAttributes
	return a.Restricted && a.Decrypt && !a.SignEncrypt
}

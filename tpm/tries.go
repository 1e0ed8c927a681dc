package tpm

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// This file keeps the search for parents from spending the failed tries that a TPM counts, and
// after a few of which it locks the keys of all programs (dictionary attacks: TPM 2.0 Part 1,
// 19.8). Only a try shows whether a storage key at a persistent handle has a password, and each one
// with another than the right one counts, unless the storage key has noDA.

// objectAt is an object at a persistent handle: the same one elsewhere may have another password.
type objectAt struct {
	handle tpm2.TPMHandle
	name   string
}

func at(o object) objectAt { return objectAt{o.handle, string(o.name)} }

// mayCount reports whether the TPM would count a try with an object, if it has a password.
// Primaries made here have none.
func (o object) mayCount() bool { return !o.transient() && !o.public.ObjectAttributes.NoDA }

// refuses notes that a storage key has a password.
func (k *known) refuses(o object) {
	k.locked[at(o)] = true
	if o.mayCount() {
		k.counted[at(o)] = false
	}
}

// maySpendTry says why a storage key at a persistent handle is not to be tried without a password.
// It may be where it was found to have none; else where no failed try is counted yet, and where one
// would not lock the TPM. That it has one is not forgotten while this process runs.
func (t *turn) maySpendTry(o object) error {
	usable, tried := t.tpm.known.counted[at(o)]
	switch {
	case usable || !o.mayCount():
		return nil
	case tried:
		return errors.New("it has a password of its own, and the TPM would count another try")
	}
	p, err := device.Properties(t, tpm2.TPMPTPermanent, uint32(tpm2.TPMPTLockoutRecovery-tpm2.TPMPTPermanent)+1)
	if err != nil {
		return err
	}
	l := lockout(p)
	switch {
	case l.Active:
		return fmt.Errorf("the TPM counts tries with a wrong password, and counted too many: %w", tpm2.TPMRCLockout)
	case !l.Spare():
		return fmt.Errorf("it may have a password, and the TPM has counted %d of the %d failed tries after which it locks; one is forgotten every %v "+
			"(tpm2_dictionarylockout --clear-lockout sets the count to 0)", l.Tries, l.Most, l.Forgets)
	}
	return nil
}

// makeAgain makes the storage key at a persistent handle anew, if it is one of those that programs
// are known to make: then it has no password, and nothing is counted. The caller releases it.
func (s *search) makeAgain(o object) (again object, found bool, err error) {
	for i, known := range knownPrimaries() {
		if !sameTemplate(o.public, known.template) {
			continue
		}
		again, err := createPrimary(s.turn, i)
		if over := s.note(place{primary: i}, err); over != nil {
			return object{}, false, over
		}
		if err == nil && bytes.Equal(again.name, o.name) {
			return again, true, nil
		}
		if err == nil {
			s.turn.release(again)
		}
	}
	return object{}, false, nil
}

// sameTemplate reports whether a key may have been made of a template: they differ in nothing but
// the unique field, which is then the key.
func sameTemplate(public, template tpm2.TPMTPublic) bool {
	public.Unique = template.Unique
	return public.Type == template.Type && bytes.Equal(tpm2.Marshal(public), tpm2.Marshal(template))
}

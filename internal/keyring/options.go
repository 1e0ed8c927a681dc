package keyring

import (
	"crypto"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// KeyRequest says what key to make. A zero field stands for the default, or in a rotation for the
// old key's value.
type KeyRequest struct {
	Algorithm     string
	PCRs          []int
	NoPCRs        bool // in a rotation: none, though the old key is bound to some
	PCRBank       string
	Persistent    uint32 // handle
	NotPersistent bool   // in a rotation: at none, though the old key is at one
	Auth          AuthSource
	NoAuth        bool // in a rotation: none, though the old key has one
}

func (r KeyRequest) isZero() bool { return reflect.ValueOf(r).IsZero() }

// errAuthTwice is that an authorization value was named, and that there is none.
var errAuthTwice = RequestError{errors.New("an authorization value was named, and also that there is none")}

// options lays the request over a base.
func (r KeyRequest) options(base keystore.KeyOptions) (keystore.KeyOptions, error) {
	if r.Algorithm != "" {
		base.Algorithm = tpm.Algorithm(r.Algorithm)
		if !slices.Contains(tpm.Algorithms(), base.Algorithm) {
			return base, requestf("algorithm %q is not one of %s", r.Algorithm, strings.Join(Algorithms(), ", "))
		}
	}
	if err := r.choosePCRs(&base.PCRs); err != nil {
		return base, err
	}
	if err := r.choosePlace(&base.Persistent); err != nil {
		return base, err
	}
	switch {
	case r.NoAuth && r.Auth.given():
		return base, errAuthTwice
	case r.NoAuth:
		base.AuthValue = secret.String{}
	case r.Auth.given():
		value, err := r.Auth.read()
		if err != nil {
			return base, err
		}
		base.AuthValue = value
	}
	return base, nil
}

func (r KeyRequest) choosePCRs(s *tpm.PCRSelection) error {
	switch {
	case r.NoPCRs:
		s.PCRs = nil
	case len(r.PCRs) > 0:
		s.PCRs = r.PCRs
	}
	switch r.PCRBank {
	case "":
	case config.BankSHA256:
		s.Bank = crypto.SHA256
	case config.BankSHA384:
		s.Bank = crypto.SHA384
	default:
		return requestf("bank of PCRs %q is neither %s nor %s", r.PCRBank, config.BankSHA256, config.BankSHA384)
	}
	if r.PCRBank != "" && len(s.PCRs) == 0 {
		return requestf("a bank of PCRs is of no use without PCRs")
	}
	return nil
}

func (r KeyRequest) choosePlace(h *tpm.Handle) error {
	switch {
	case r.NotPersistent:
		*h = 0
		return nil
	case r.Persistent == 0:
		return nil
	}
	*h = tpm.Handle(r.Persistent)
	if err := tpm.CheckPersistentHandle(*h); err != nil {
		return RequestError{err}
	}
	return nil
}

// Algorithms lists the kinds of keys, the default first.
func Algorithms() []string {
	var names []string
	for _, a := range tpm.Algorithms() {
		names = append(names, string(a))
	}
	return names
}

func handleText(h tpm.Handle) string {
	if h == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08x", uint32(h))
}

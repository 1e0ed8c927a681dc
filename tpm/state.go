package tpm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// State is what others have set or caused in a TPM, and on which it depends whether keys work. None
// of it is proven.
type State struct {
	Lockout Lockout
	// OwnerPassword says that the owner hierarchy has a password. Keys need it to be made
	// persistent, and the storage root to be derived.
	OwnerPassword bool
	Banks         []PCRBank
	// StorageKeys are the keys at 0x81000000 to 0x8100ffff under which others can be made.
	StorageKeys []StorageKey
}

// StorageKey is a persistent key of the platform or of any program.
type StorageKey struct {
	Handle tpm2.TPMHandle
	Name   []byte
	// Fault says why it is no storage root; nil if it is as the TCG's templates have it.
	Fault error
}

// Lockout is the TPM's protection from guessed passwords (dictionary attacks: TPM 2.0 Part 1,
// 19.8). The fields hold for objects without the attribute noDA.
type Lockout struct {
	Active bool   // no such object can be used now
	Tries  uint32 // failed tries that are counted now
	Most   uint32 // so many of them begin the lockout
	// Forgets is after how long the count falls by one. 0: nothing is counted.
	Forgets time.Duration
}

// Spare reports whether a program may spend a failed try: none is counted yet, and one does not
// lock the TPM.
func (l Lockout) Spare() bool { return !l.Active && l.Tries == 0 && l.Most > 1 }

// lockout reads it out of the properties from TPM_PT_PERMANENT on.
func lockout(p map[tpm2.TPMPT]uint32) Lockout {
	return Lockout{
		Active:  p[tpm2.TPMPTPermanent]&inLockout != 0,
		Tries:   p[tpm2.TPMPTLockoutCounter],
		Most:    p[tpm2.TPMPTMaxAuthFail],
		Forgets: time.Duration(p[tpm2.TPMPTLockoutInterval]) * time.Second,
	}
}

// Bits of TPMA_PERMANENT (TPM 2.0 Part 2, 8.6).
const (
	ownerAuthSet = 1 << 0
	inLockout    = 1 << 9
)

// State asks the TPM for its state. It uses no key and no password.
func (t *TPM) State(ctx context.Context) (State, error) {
	var s State
	err := t.again(ctx, func(turn *turn) (err error) {
		s, err = readState(turn)
		return err
	})
	if err != nil {
		return State{}, fmt.Errorf("reading the TPM's state: %w", err)
	}
	return s, nil
}

func readState(t transport.TPM) (State, error) {
	p, err := device.Properties(t, tpm2.TPMPTPermanent, uint32(tpm2.TPMPTLockoutRecovery-tpm2.TPMPTPermanent)+1)
	if err != nil {
		return State{}, err
	}
	banks, err := pcrBanks(t)
	if err != nil {
		return State{}, err
	}
	keys, err := storageKeys(t)
	if err != nil {
		return State{}, err
	}
	return State{
		Lockout:       lockout(p),
		OwnerPassword: p[tpm2.TPMPTPermanent]&ownerAuthSet != 0,
		Banks:         banks,
		StorageKeys:   keys,
	}, nil
}

// storageKeys lists the storage keys at persistent handles. An object that cannot be read is passed
// over: it is no root of ours.
func storageKeys(t transport.TPM) ([]StorageKey, error) {
	handles, err := storageHandles(t)
	if err != nil {
		return nil, err
	}
	var keys []StorageKey
	for _, h := range handles {
		o, err := readPublic(t, h)
		if errors.Is(err, ErrUnavailable) {
			return nil, err
		}
		if a := o.public.ObjectAttributes; err == nil && a.Restricted && a.Decrypt {
			keys = append(keys, StorageKey{Handle: h, Name: o.name, Fault: checkStorageKey(&o.public)})
		}
	}
	return keys, nil
}

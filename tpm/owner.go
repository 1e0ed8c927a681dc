package tpm

import (
	"bytes"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// asOwner runs a command with the owner's rights where the kept session cannot be had, because it
// is salted to what the command is needed for. It is sent with an empty password, and if the owner
// hierarchy has one, which is not counted against anybody (TPM 2.0 Part 1, 19.8), again with the
// owner's.
func (t *turn) asOwner(f func(tpm2.Session) error) error {
	return t.withOwnerPassword(f(emptyPassword()), func(value []byte) error {
		if t.tpm.sessions.plain {
			return f(tpm2.PasswordAuth(value))
		}
		s, err := startUnsalted(t)
		if err != nil {
			return err
		}
		defer t.Flush(s.handle, nil)
		return f(s.authorize(value, 0))
	})
}

// withOwnerPassword runs f with the owner's password, if there is one and a command was refused for
// want of it.
func (t *turn) withOwnerPassword(refused error, f func(value []byte) error) error {
	if t.tpm.ownerAuth == nil || !rc.Of(refused, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return refused
	}
	value, err := t.tpm.ownerAuth()
	if err != nil {
		return fmt.Errorf("%w, and the owner's password could not be had: %w", refused, err)
	}
	if value.IsZero() {
		return refused
	}
	err = f(bytes.TrimRight([]byte(value.Reveal()), "\x00"))
	if rc.Of(err, tpm2.TPMRCBadAuth, tpm2.TPMRCAuthFail) {
		return fmt.Errorf("%w: the owner's password is another one than was given", err)
	}
	t.tpm.ownerHasPassword = t.tpm.ownerHasPassword || err == nil
	return err
}

// startUnsalted starts an HMAC session for one command. It keeps the password off the wire and
// authenticates the answer. An eavesdropper can still test guesses of the password against the
// HMAC.
func startUnsalted(t *turn) (*session, error) {
	s := &session{nonceCaller: make([]byte, nonceBytes)}
	if err := s.newNonce(); err != nil {
		return nil, err
	}
	rsp, err := tpm2.StartAuthSession{
		TPMKey:      tpm2.TPMRHNull,
		Bind:        tpm2.TPMRHNull,
		NonceCaller: tpm2.TPM2BNonce{Buffer: s.nonceCaller},
		SessionType: tpm2.TPMSEHMAC,
		Symmetric:   tpm2.TPMTSymDef{Algorithm: tpm2.TPMAlgNull},
		AuthHash:    tpm2.TPMAlgSHA256,
	}.Execute(t)
	if err != nil {
		t.Discard()
		return nil, fmt.Errorf("starting a session: %w", err)
	}
	s.handle, s.nonceTPM = rsp.SessionHandle, rsp.NonceTPM.Buffer
	return s, nil
}

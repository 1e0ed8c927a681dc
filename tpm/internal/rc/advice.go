package rc

import (
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
)

// ErrState is in the error for a command that failed because of the TPM's state, not because of the
// request.
var ErrState = errors.New("the TPM's state does not allow it")

// Advise adds what an operator can do to codes that say more about the TPM's state than about the
// command.
func Advise(err error) error {
	if err == nil {
		return nil
	}
	var code tpm2.TPMRC
	if !errors.As(err, &code) {
		return err
	}
	for _, a := range advice {
		if errors.Is(code, a.code) {
			return &stateError{cause: err, advice: a.text}
		}
	}
	return err
}

// stateError is an error with what an operator can do about it.
type stateError struct {
	cause  error
	advice string
}

func (e *stateError) Error() string { return fmt.Sprintf("%v: %s", e.cause, e.advice) }

func (e *stateError) Unwrap() []error { return []error{ErrState, e.cause} }

var advice = []struct {
	code tpm2.TPMRC
	text string
}{
	{tpm2.TPMRCLockout, "the TPM is in dictionary-attack lockout: some program gave wrong passwords, or the TPM lost its power without an orderly shutdown (a VM that was killed or switched off hard) after a key without noDA had been used, which it counts as a wrong password, too; wait until the recovery time is over (keyagent doctor says how long that is), or end the lockout now: tpm2_dictionarylockout --clear-lockout, with --auth if the lockout hierarchy has a password; keys that keyagent makes are exempt"},
	{tpm2.TPMRCObjectMemory, "other programs hold all of the TPM's object slots: use the resource manager's device, /dev/tpmrm0, or flush them with tpm2_flushcontext --transient-object; through unix: or tcp:, a running agent may be one of them"},
	{tpm2.TPMRCSessionMemory, "other programs hold all of the TPM's session slots: use the resource manager's device, /dev/tpmrm0, or flush them with tpm2_flushcontext --loaded-session; through unix: or tcp:, a running agent may be one of them"},
	{tpm2.TPMRCSessionHandles, "other programs hold all of the TPM's sessions: find the one that leaks them, or flush them with tpm2_flushcontext --saved-session"},
	{tpm2.TPMRCContextGap, "another program keeps a session that is too old: find it, or flush it with tpm2_flushcontext --saved-session"},
	{tpm2.TPMRCFailure, "the TPM is in failure mode: it needs a power cycle (stop and start the VM)"},
	{tpm2.TPMRCNVUnavailable, "the TPM cannot write its memory at this moment: try again later"},
	{tpm2.TPMRCDisabled, "the TPM's owner has disabled this"},
	{tpm2.TPMRCHierarchy, "the owner hierarchy is switched off: it comes back at the next boot"},
	{tpm2.TPMRCNVSpace, "the TPM's memory is full: remove a persistent key or an NV index (tpm2_getcap handles-persistent)"},
}

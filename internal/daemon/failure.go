package daemon

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm"
)

// UsageError marks what the person who typed a command can mend.
type UsageError struct{ Err error }

func (e UsageError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e UsageError) Unwrap() error { return e.Err }

func usagef(format string, args ...any) error { return UsageError{fmt.Errorf(format, args...)} }

// hintedError says what to do next.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// Hint says what to do next.
func (e hintedError) Hint() string { return e.hint }

// hint adds what to do next to an error, unless it says so already.
func hint(err error, format string, args ...any) error {
	if _, has := errors.AsType[hintedError](err); err == nil || has {
		return err
	}
	return hintedError{err, fmt.Sprintf(format, args...)}
}

// explainKey adds what to do next to the usual errors about a key.
func explainKey(err error, name string) error {
	switch {
	case errors.Is(err, signer.ErrGenerationMissing):
		return hint(err, "write the number of the *.key.pem file that is to be used into that file; or make another key in its place: keyagent key create %s", name)
	case errors.Is(err, signer.ErrNoKey):
		return hint(err, "keyagent key show lists the keys there are; keyagent key create %s makes this one", name)
	case errors.Is(err, tpm.ErrAuthValue) && name == BindingKeyName:
		return hint(err, "see binding_key.auth_credential in the configuration, or make a new key: keyagent key rotate %s", name)
	case errors.Is(err, tpm.ErrAuthValue):
		return hint(err, "give the value that the key was made with: --auth-file FILE or --auth-credential NAME")
	case errors.Is(err, tpm.ErrForeignTPM) && name == BindingKeyName:
		return hint(err, "a key cannot come back: keyagent key delete %s --force, and the agent makes another at its next start", name)
	case errors.Is(err, tpm.ErrForeignTPM):
		return hint(err, "a key cannot come back: keyagent key delete %s, then make another and have it certified", name)
	case errors.Is(err, tpm.ErrPCRBank):
		return hint(err, "%s", bankAdvice(err, name))
	case errors.Is(err, tpm.ErrPCRsChanged):
		return hint(err, "keyagent key rotate %s makes another key, bound to the values that the PCRs have now", name)
	case errors.Is(err, tpm.ErrState), errors.Is(err, tpm.ErrUnavailable):
		return hint(err, "mend the access to the TPM first; nothing says that the key is at fault")
	case errors.Is(err, fs.ErrPermission):
		return hint(err, "run it as the user that the agent runs as, or as root if the agent does")
	}
	return err
}

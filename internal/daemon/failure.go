package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/keyagent/keyagent/signer/keystore"
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
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && !parent.Lost() {
		return hint(err, "%s", restoring(parent))
	}
	switch {
	case errors.Is(err, keystore.ErrGenerationMissing):
		return hint(err, "write the number of the *.key.pem file that is to be used into that file; or make another key in its place: keyagent key create %s", name)
	case errors.Is(err, keystore.ErrNoKey):
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
		return hint(err, "this is for whoever administers the agent, as the user that the agent runs as")
	}
	return err
}

// restoring says how a storage key that was not found, and is not lost, can be found again. Each command is on a line of its own, to be
// pasted as it is.
func restoring(e *tpm.ParentError) string {
	var lines []string
	switch {
	case e.Found:
		lines = append(lines, "nothing is lost, and nothing is to be deleted: find out who changed the TPM; this line, run as root, brings the storage key back"+passwordFirst(e)+":")
	case e.Password:
		lines = append(lines, "nothing says that a key is lost, and nothing is to be deleted: the owner hierarchy has a password; give it to the agent "+
			"(tpm_owner_credential in the configuration), or make the storage key persistent with one of these lines, run as root"+passwordFirst(e)+
			"; no other than the right one is used:")
	case e.Gone:
		lines = append(lines, "nothing says that the key is lost, and nothing is to be deleted: the TPM was not cleared, and the storage key that the key was made under was removed; "+
			makeParent+". If nobody knows how that was made, keyagent key rotate makes another key in place of this one")
	default:
		lines = append(lines, "nothing says that a key is lost, and nothing is to be deleted: let the agent look where it could not, then try again")
	}
	return strings.Join(append(lines, e.Commands...), "\n")
}

// makeParent says how a storage key comes back that only its owner knows how to make.
const makeParent = "make that storage key again, with the options that it was made with, and keep it at a persistent handle, as in: " +
	"tpm2_createprimary -C o -G ecc384 -c parent.ctx && tpm2_evictcontrol -C o -c parent.ctx " + exampleParent

func passwordFirst(e *tpm.ParentError) string {
	if !e.Password {
		return ""
	}
	return ", with the owner's password in the variable OWNER_PASSWORD"
}

package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// Explain adds what to do next to the usual errors about a key.
func Explain(err error, name string) error {
	if parent, ok := errors.AsType[*tpm.ParentError](err); ok && !parent.Lost() {
		return advice.Hint(err, "%s", Restoring(parent))
	}
	switch {
	case errors.Is(err, keystore.ErrGenerationMissing):
		return advice.Hint(err, "write the number of the *.key.pem file that is to be used into that file; or make another key in its place: keyagent key create %s", name)
	case errors.Is(err, keystore.ErrNoKey):
		return advice.Hint(err, "keyagent key show lists the keys there are; keyagent key create %s makes this one", name)
	case errors.Is(err, tpm.ErrAuthValue) && name == BindingKeyName:
		return advice.Hint(err, "see binding_key.auth_credential in the configuration, or make a new key: keyagent key rotate %s", name)
	case errors.Is(err, tpm.ErrAuthValue):
		return advice.Hint(err, "give the value that the key was made with: --auth-file FILE or --auth-credential NAME")
	case errors.Is(err, tpm.ErrForeignTPM) && name == BindingKeyName:
		return advice.Hint(err, "a key cannot come back: keyagent key delete %s --force, and the agent makes another at its next start", name)
	case errors.Is(err, tpm.ErrForeignTPM):
		return advice.Hint(err, "a key cannot come back: keyagent key delete %s, then make another and have it certified", name)
	case errors.Is(err, tpm.ErrPCRBank):
		return advice.Hint(err, "%s", bankAdvice(err, name))
	case errors.Is(err, tpm.ErrPCRsChanged):
		return advice.Hint(err, "keyagent key rotate %s makes another key, bound to the values that the PCRs have now", name)
	case errors.Is(err, tpm.ErrState), errors.Is(err, tpm.ErrUnavailable):
		return advice.Hint(err, "mend the access to the TPM first; nothing says that the key is at fault")
	case errors.Is(err, fs.ErrPermission):
		return advice.Hint(err, "this is for whoever administers the agent, as the user that the agent runs as")
	}
	return err
}

// bankAdvice says what to do about a bank of PCRs that is off. One that is switched on is there from
// the next start of the TPM on.
func bankAdvice(err error, name string) string {
	e, ok := errors.AsType[*tpm.BankError](err)
	if !ok {
		return "tpm2_getcap pcrs shows which banks there are"
	}
	on := fmt.Sprintf("switch it on (tpm2_pcrallocate %s:all, or the firmware's settings) and restart the machine", e.Bank)
	i := slices.IndexFunc(e.Alternatives(), func(bank string) bool { return bank == config.BankSHA256 || bank == config.BankSHA384 })
	switch {
	case i < 0:
		return on
	case name == BindingKeyName:
		return fmt.Sprintf("%s; or bind another key to a bank that is there: binding_key.pcr_bank: %s in the configuration, and then keyagent key rotate %s", on, e.Alternatives()[i], name)
	}
	return fmt.Sprintf("%s; or bind another key to a bank that is there, with --pcr-bank %s, as in keyagent key rotate %s --pcr-bank %[2]s", on, e.Alternatives()[i], name)
}

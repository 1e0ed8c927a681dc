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
		return advice.Add(err, Restoring(parent))
	}
	switch {
	case errors.Is(err, keystore.ErrGenerationMissing):
		return advice.To(err, "write the number of the *.key.pem file that is to be used into that file; or make another key in its place: %s",
			advice.Run(advice.CreateKey, name))
	case errors.Is(err, keystore.ErrNoKey):
		return advice.To(err, "%s lists the keys there are; %s makes this one", advice.Run(advice.ShowKey, ""), advice.Run(advice.CreateKey, name))
	case errors.Is(err, tpm.ErrAuthValue) && name == BindingKeyName:
		return advice.To(err, "see binding_key.auth_credential in the configuration, or make a new key: %s", advice.Run(advice.RotateKey, name))
	case errors.Is(err, tpm.ErrAuthValue):
		return advice.To(err, "give the value that the key was made with: %s or %s", advice.AuthFile, advice.AuthCredential)
	case errors.Is(err, tpm.ErrForeignTPM) && name == BindingKeyName:
		return advice.To(err, "a key cannot come back: %s, and the agent makes another at its next start", advice.Run(advice.DeleteKey, name, advice.Force))
	case errors.Is(err, tpm.ErrForeignTPM):
		return advice.To(err, "a key cannot come back: %s, then make another and have it certified", advice.Run(advice.DeleteKey, name))
	case errors.Is(err, tpm.ErrPCRBank):
		return advice.Add(err, bankAdvice(err, name))
	case errors.Is(err, tpm.ErrPCRsChanged):
		return advice.To(err, "%s makes another key, bound to the values that the PCRs have now", advice.Run(advice.RotateKey, name))
	case errors.Is(err, tpm.ErrState), errors.Is(err, tpm.ErrUnavailable):
		return advice.To(err, "restore the access to the TPM first; nothing says that the key is at fault")
	case errors.Is(err, fs.ErrPermission):
		return advice.To(err, "this is for whoever administers the agent, as the user that the agent runs as")
	}
	return err
}

// bankAdvice says what to do about a bank of PCRs that is off. A bank that is switched on is
// available from the next start of the TPM on.
func bankAdvice(err error, name string) advice.Advice {
	e, ok := errors.AsType[*tpm.BankError](err)
	if !ok {
		return advice.New("tpm2_getcap pcrs shows which banks there are")
	}
	on := fmt.Sprintf("switch it on (tpm2_pcrallocate %s:all, or the firmware's settings) and restart the machine", e.Bank)
	i := slices.IndexFunc(e.Alternatives(), func(bank string) bool { return bank == config.BankSHA256 || bank == config.BankSHA384 })
	if i < 0 {
		return advice.New("%s", on)
	}
	bank := e.Alternatives()[i]
	if name == BindingKeyName {
		return advice.New("%s; or bind another key to a bank that is there: binding_key.pcr_bank: %s in the configuration, and then %s",
			on, bank, advice.Run(advice.RotateKey, name))
	}
	return advice.New("%s; or bind another key to a bank that is there, with %s, as in %s",
		on, advice.PCRBank.Is(bank), advice.Run(advice.RotateKey, name, advice.PCRBank.Is(bank)))
}

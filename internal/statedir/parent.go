package statedir

import (
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/tpm"
)

// Restoring says how a storage key that was not found, and is not lost, can be made available
// again. Each command is on a line of its own, to be pasted as it is.
func Restoring(e *tpm.ParentError) advice.Advice {
	var first advice.Advice
	switch {
	case e.Found:
		first = advice.New("nothing is lost, and nothing is to be deleted: find out who changed the TPM; this line, run as root, brings the storage key back%s:",
			passwordFirst(e))
	case e.Password:
		first = advice.New("nothing says that a key is lost, and nothing is to be deleted: the owner hierarchy has a password; give it to the agent "+
			"(tpm_owner_credential in the configuration), or make the storage key persistent with one of these lines, run as root%s; no other than the right one is used:",
			passwordFirst(e))
	case e.Gone:
		first = advice.New("nothing says that the key is lost, and nothing is to be deleted: the TPM was not cleared, and the storage key that the key was made under was removed; "+
			"%s. If it is not known how that was made, %s makes another key in place of this one", makeParent, advice.Run(advice.RotateKey, ""))
	default:
		first = advice.New("nothing says that a key is lost, and nothing is to be deleted: let the agent look where it could not, then try again")
	}
	return advice.New("%s", first).Lines(e.Commands)
}

// OtherTPM says what to do where the TPM is not the one that the keys were made in, by all that can
// be seen. Nothing is removed by itself: the same is seen where somebody stands between agent and
// TPM.
func OtherTPM() advice.Advice {
	return advice.New("delete nothing before you know why. If this machine was made from another one's disk or image, or if this TPM was cleared or replaced on purpose, "+
		"the keys there cannot come back: %s removes them, and the next start makes others; applications need new certificates. "+
		"If neither is the case, the storage root was removed from its handle, and only someone who knows how it was made can make it again and keep it at a persistent handle, "+
		"or an interposer is between agent and TPM", advice.Run(advice.PrepareImage, ""))
}

// makeParent says how to restore a storage key whose template only its owner knows.
const makeParent = "make that storage key again, with the options that it was made with, and keep it at a persistent handle, as in: " +
	"tpm2_createprimary -C o -G ecc384 -c parent.ctx && tpm2_evictcontrol -C o -c parent.ctx " + ExampleParent

func passwordFirst(e *tpm.ParentError) string {
	if !e.Password {
		return ""
	}
	return ", with the owner's password in the variable OWNER_PASSWORD"
}

// ExampleParent is a handle that the registry leaves to storage keys (TCG Registry of Reserved TPM
// 2.0 Handles, 2.3.1) and that programs which make one do not take by themselves.
const ExampleParent = "0x81000100"

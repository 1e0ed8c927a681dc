package tpm

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/rc"
)

var (
	// ErrUnavailable is in every error that says: the TPM cannot be reached at this moment. The next call tries again.
	ErrUnavailable = errors.New("TPM not available")

	// ErrForeignTPM is in the error for a key file that does not belong to this TPM as it is now: another TPM made it, this
	// TPM was cleared since, its parent is gone or is another key of this TPM than the file says, or the file is damaged. The TPM
	// cannot tell these apart.
	ErrForeignTPM = errors.New("key file does not belong to this TPM")

	// ErrExportable is in the error for a key that the TPM would let out, or that it did not make itself.
	ErrExportable = errors.New("key is not bound to the TPM")

	// ErrAttributes is in the error for a key that is bound to the TPM and is more than a signing key; see [LoadOptions.SignOnly].
	ErrAttributes = errors.New("key may do more than sign")

	// ErrStorageRoot is in the error for a TPM whose storage root is not the known one. The TPM was cleared or exchanged, or
	// somebody between agent and TPM shows a key of his own.
	ErrStorageRoot = errors.New("the TPM's storage root is not the one that is known")

	// ErrAuthValue is in the error for a key whose authorization value is not the one given, or not given.
	ErrAuthValue = errors.New("wrong authorization value")

	// ErrPCRsChanged is in the error for a key that is bound to PCR values which are others now. See [PCRError].
	ErrPCRsChanged = errors.New("PCRs that the key is bound to have changed")

	// ErrPCRBank is in the error for PCRs that the TPM does not have: their bank is switched off or not implemented. See [BankError].
	ErrPCRBank = errors.New("PCRs are not there")

	// ErrPolicy is in the error for a key whose policy the TPM does not take to be satisfied now; [ErrPCRsChanged] and [ErrPCRBank]
	// beside it say why, where that is known.
	ErrPolicy = errors.New("the key's policy is not satisfied")

	// ErrNoNVIndex is in the error for an NV index that is not defined on this TPM.
	ErrNoNVIndex = errors.New("NV index is not defined on this TPM")

	// ErrState is in the error for a command that failed for the state that the TPM is in, and not for what was asked: its slots are full, it
	// is in lockout, in failure mode or switched off. The text says what to do. Nothing follows from it for a key.
	ErrState = rc.ErrState

	// ErrClosed is returned by calls on a TPM or Key that was closed.
	ErrClosed = errors.New("TPM is closed")
)

// lostError says that the transport died with a command under way: the TPM may have executed it or not.
type lostError struct {
	device string
	cause  error
}

func (e *lostError) Error() string {
	if errors.Is(e.cause, os.ErrDeadlineExceeded) {
		return fmt.Sprintf("TPM %s did not answer in time; the connection was dropped and is opened anew on next use", e.device)
	}
	return fmt.Sprintf("TPM %s: connection lost: %v", e.device, e.cause)
}

func (e *lostError) Unwrap() []error { return []error{ErrUnavailable, e.cause} }

// repeatable reports whether an idempotent sequence of commands should be tried a second time: the transport died under it,
// and not by being slow, which a second try would only double.
func repeatable(err error) bool {
	if err == nil {
		return false
	}
	var lost *lostError
	return errors.As(err, &lost) && !errors.Is(lost.cause, os.ErrDeadlineExceeded)
}

// layerBits are bits 16 to 23 of a response code: which layer of the software stack made it. The kernel's resource manager
// sets 0x0B. TPM 2.0 Part 2, 6.6.2 leaves them to the TSS (TCG TSS 2.0 Overview, 5.3.2).
const layerBits = 0x00ff0000

// The session that a format-one code blames (TPM 2.0 Part 2, 6.6.2).
const (
	sessionMask   tpm2.TPMRC = 0xf00
	secondSession tpm2.TPMRC = 0xa00
)

// staleHandle reports whether err says that a handle names nothing any more: after a TPM reset, or in the fresh space that a
// reopened resource manager gives.
func staleHandle(err error) bool {
	return rc.Of(err, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceH1, tpm2.TPMRCHandle) || errors.Is(err, errWrongObject)
}

// openHint tells an operator what to do about an error of opening the device.
func openHint(d device, err error) string {
	switch {
	case d.network != "":
		return fmt.Sprintf("check that the TPM emulator behind %s runs and that this user may connect", d)
	case errors.Is(err, os.ErrNotExist):
		return "this machine shows no TPM: check that the VM has a vTPM and that the kernel's tpm driver is loaded (ls -l /dev/tpm*)"
	case errors.Is(err, os.ErrPermission):
		return "this user may not open it: add it to the group of the device, usually tss (SupplementaryGroups=tss)"
	case errors.Is(err, syscall.EBUSY):
		return "another program holds it: use the resource manager's device, /dev/tpmrm0"
	}
	return "check the tpm setting and the kernel log"
}

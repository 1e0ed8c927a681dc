package tpm

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/google/go-tpm/tpm2"
)

var (
	// ErrUnavailable is in every error that says: the TPM cannot be reached at this moment. The next call tries again.
	ErrUnavailable = errors.New("TPM not available")

	// ErrForeignTPM is in the error for a key file that does not belong to this TPM as it is now: another TPM made it, this
	// TPM was cleared since, its parent is gone, or the file is damaged. The TPM cannot tell these apart.
	ErrForeignTPM = errors.New("key file does not belong to this TPM")

	// ErrExportable is in the error for a key that the TPM would let out, or that may do more than sign.
	ErrExportable = errors.New("key is not bound to the TPM")

	// ErrNoNVIndex is in the error for an NV index that is not defined on this TPM.
	ErrNoNVIndex = errors.New("NV index is not defined on this TPM")

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
	var lost *lostError
	return errors.As(err, &lost) && !errors.Is(lost.cause, os.ErrDeadlineExceeded)
}

// layerBits are bits 16 to 23 of a response code: which layer of the software stack made it. The kernel's resource manager
// sets 0x0B. TPM 2.0 Part 2, 6.6.2 leaves them to the TSS (TCG TSS 2.0 Overview, 5.3.2).
const layerBits = 0x00ff0000

// codeIs reports whether code is one of the codes listed, whatever parameter, handle or session it blames.
func codeIs(code tpm2.TPMRC, list ...tpm2.TPMRC) bool {
	for _, c := range list {
		if errors.Is(code, c) {
			return true
		}
	}
	return false
}

// retryable reports whether the TPM asks for the same command again, later (TPM 2.0 Part 2, 6.6.3, RC_WARN).
func retryable(code tpm2.TPMRC) bool {
	return codeIs(code, tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate)
}

// slotsFull reports whether a command failed for want of a transient slot.
func slotsFull(code tpm2.TPMRC) bool { return codeIs(code, tpm2.TPMRCObjectMemory) }

// staleHandle reports whether err says that a handle names nothing any more: after a TPM reset, or in the fresh space that a
// reopened resource manager gives.
func staleHandle(err error) bool {
	var code tpm2.TPMRC
	if errors.As(err, &code) {
		return codeIs(code, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceH1, tpm2.TPMRCHandle)
	}
	return errors.Is(err, errWrongObject)
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

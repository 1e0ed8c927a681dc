package rc

import (
	"errors"
	"slices"

	"github.com/google/go-tpm/tpm2"
)

// Is reports whether code is one of the codes listed, whatever parameter, handle or session it
// blames.
func Is(code tpm2.TPMRC, list ...tpm2.TPMRC) bool {
	// A format-one code is its six lower bits and bit 7; the rest says whom it blames (TPM 2.0 Part
	// 2, 6.6.2). errors.Is knows that, too, but would allocate on the way of every signature.
	const formatOne, number = 0x080, 0x0bf
	if code&formatOne != 0 {
		code &= number
	}
	return slices.Contains(list, code)
}

// Of reports whether err has one of the codes listed.
func Of(err error, list ...tpm2.TPMRC) bool {
	var code tpm2.TPMRC
	return errors.As(err, &code) && Is(code, list...)
}

// Retryable reports whether the TPM asks for the same command again, later (TPM 2.0 Part 2, 6.6.3,
// RC_WARN).
func Retryable(code tpm2.TPMRC) bool {
	return Is(code, tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate)
}

// SlotsFull reports whether a command failed for want of a transient slot.
func SlotsFull(code tpm2.TPMRC) bool { return Is(code, tpm2.TPMRCObjectMemory) }

// SessionsFull reports whether a command failed for want of a session slot, or because a session
// that was put aside is too old.
func SessionsFull(code tpm2.TPMRC) bool {
	return Is(code, tpm2.TPMRCSessionMemory, tpm2.TPMRCSessionHandles, tpm2.TPMRCContextGap)
}

// StaleHandle reports whether err says that a handle names nothing any more: after a TPM reset, or
// in the fresh space that a reopened resource manager gives.
func StaleHandle(err error) bool {
	return Of(err, tpm2.TPMRCReferenceH0, tpm2.TPMRCReferenceH1, tpm2.TPMRCHandle)
}

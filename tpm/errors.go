package tpm

import (
	"errors"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

var (
	// ErrUnavailable is in every error that says: the TPM cannot be reached at this moment. The
	// next call tries again.
	ErrUnavailable = device.ErrUnavailable

	// ErrForeignTPM is in the error for a key file that does not belong to this TPM as it is now:
	// another TPM made it, this TPM was cleared since, its parent is gone or is another key of this
	// TPM than the file says, or the file is damaged. The TPM cannot tell these apart.
	ErrForeignTPM = errors.New("key file does not belong to this TPM")

	// ErrExportable is in the error for a key that the TPM would let out, or that it did not make
	// itself.
	ErrExportable = errors.New("key is not bound to the TPM")

	// ErrAttributes is in the error for a key that is bound to the TPM and is more than a signing
	// key; see [LoadOptions.SignOnly].
	ErrAttributes = errors.New("key may do more than sign")

	// ErrStorageRoot is in the error for a TPM whose storage root is not the known one. The TPM was
	// cleared or exchanged, or an interposer between agent and TPM shows a key of their own.
	ErrStorageRoot = errors.New("the TPM's storage root is not the one that is known")

	// ErrAuthValue is in the error for a key whose authorization value is not the one given, or not
	// given.
	ErrAuthValue = errors.New("wrong authorization value")

	// ErrPCRsChanged is in the error for a key that is bound to PCR values which are others now.
	// See [PCRError].
	ErrPCRsChanged = errors.New("PCRs that the key is bound to have changed")

	// ErrPCRBank is in the error for PCRs that the TPM does not have: their bank is switched off or
	// not implemented. See [BankError].
	ErrPCRBank = errors.New("PCRs are not there")

	// ErrPolicy is in the error for a key whose policy the TPM does not take to be satisfied now;
	// [ErrPCRsChanged] and [ErrPCRBank] beside it say why, where that is known.
	ErrPolicy = errors.New("the key's policy is not satisfied")

	// ErrNoNVIndex is in the error for an NV index that is not defined on this TPM.
	ErrNoNVIndex = errors.New("NV index is not defined on this TPM")

	// ErrState is in the error for a command that failed because of the TPM's state, not because of
	// the request: it is out of slots, in lockout or in failure mode, or switched off. The text
	// says what to do. Nothing follows from it for a key.
	ErrState = rc.ErrState

	// ErrClosed is returned by calls on a TPM or Key that was closed.
	ErrClosed = device.ErrClosed
)

// The session that a format-one code blames (TPM 2.0 Part 2, 6.6.2).
const (
	sessionMask   tpm2.TPMRC = 0xf00
	secondSession tpm2.TPMRC = 0xa00
)

// staleHandle is [rc.StaleHandle], also for a handle that names another object than the one that
// was there.
func staleHandle(err error) bool { return rc.StaleHandle(err) || errors.Is(err, errWrongObject) }

package tpm

import "sync/atomic"

// resident is a key's place among what stays in the TPM from turn to turn. It is a
// [device.Resident].
type resident struct {
	pinned bool        // it does not give way: it cannot be loaded again
	closed atomic.Bool // its owner has given it up
}

// GivesWay reports whether the key can be loaded again.
func (r *resident) GivesWay() bool { return !r.pinned }

// Retired reports whether the key was closed.
func (r *resident) Retired() bool { return r.closed.Load() }

// retire gives the key up. It does not wait for the TPM.
func (r *resident) retire(from *TPM) {
	if !r.closed.Swap(true) {
		from.device.Retired()
	}
}

package tpm

import (
	"context"

	"github.com/google/go-tpm/tpm2"
)

// Unopened returns a TPM whose queue works and that has no device.
func Unopened(ctx context.Context) *TPM {
	return &TPM{scheduler: newScheduler(ctx, device{address: "/nonexistent"}, Config{}.withDefaults())}
}

// ParseSignature is parseSignature, for fuzzing.
func ParseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	return parseSignature(rsp, scheme, hash, nil)
}

package tpm

import (
	"context"
	"log/slog"

	"github.com/google/go-tpm/tpm2"
)

// Unopened returns a TPM whose queue works and that has no device.
func Unopened(ctx context.Context) *TPM {
	return start(ctx, newScheduler(device{address: "/nonexistent"}, defaultCommandTimeout, slog.New(slog.DiscardHandler)))
}

// ParseSignature is parseSignature, for fuzzing.
func ParseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	return parseSignature(rsp, scheme, hash)
}

package signertest

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
)

// Machine is a machine for an example, which has no [testing.TB]: a TPM, and a directory for the
// agent's files.
type Machine struct {
	TPM       *tpm.TPM
	StateDir  string
	simulated *vtpm.TPM
}

// NewMachine starts a machine. Close it.
func NewMachine(ctx context.Context) (*Machine, error) {
	dir, err := os.MkdirTemp("", "machine-")
	if err != nil {
		return nil, err
	}
	m := &Machine{StateDir: dir}
	if m.simulated, err = vtpm.Start(ctx, vtpm.Config{Socket: filepath.Join(dir, "tpm.sock"), Azure: true}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	if m.TPM, err = tpm.Open(ctx, tpm.Config{Device: m.simulated.Device()}); err != nil {
		return nil, errors.Join(err, m.simulated.Close(), os.RemoveAll(dir))
	}
	return m, nil
}

// Close stops the TPM and removes the directory.
func (m *Machine) Close() error {
	return errors.Join(m.TPM.Close(), m.simulated.Close(), os.RemoveAll(m.StateDir))
}

package peers_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/bench/peers"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// bare is a TPM2_Sign whose bytes are ready, to be sent over and over.
type bare struct {
	command []byte
	send    tpmtest.Forward
}

// openBare takes the bytes, and the connection that they are valid on, from a plain signature of
// ours.
func openBare(tb testing.TB, m machine, s scheme) *bare {
	tb.Helper()
	by := &bare{}
	tap := tpmtest.NewProxy(tb, m.device)
	tap.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		if tpmtest.CommandCode(command) == uint32(tpm2.TPMCCSign) {
			*by = bare{bytes.Clone(command), forward}
		}
		return forward(command)
	})
	m.device = tap.Device()
	check(tb, openOurs(tb, m, peers.Form{Config: tpm.Config{PlainSessions: true}}, s), s)
	return by
}

// exchange has the TPM sign, and looks at nothing but the response's code.
func (b *bare) exchange() error {
	rsp, err := b.send(b.command)
	if err != nil {
		return err
	}
	if code := binary.BigEndian.Uint32(rsp[6:]); code != 0 {
		return fmt.Errorf("TPM2_Sign: code 0x%08x", code)
	}
	return nil
}

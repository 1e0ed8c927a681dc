package tpm_test

import (
	"crypto/rsa"
	"encoding/binary"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// exchangingHandle puts another handle into the first answer to a command.
func exchangingHandle(code tpm2.TPMCC, h tpm2.TPMHandle) tpmtest.Handler {
	return first(code, func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		rsp, err := forward(command)
		if err == nil && answered(rsp) == tpm2.TPMRCSuccess {
			binary.BigEndian.PutUint32(rsp[10:], uint32(h))
		}
		return rsp, err
	})
}

// The handle in an answer is not protected. Where it is not looked at, the first command with the
// key shows that it is wrong: no other key signs, and the key is loaded again.
func TestAWrongHandleIsFoundOutByTheFirstSignature(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	on := tpmtest.Connect(t, proxy.Device())
	file := create(t, on, tpm.KeyOptions{})
	proxy.Handle(exchangingHandle(tpm2.TPMCCLoad, handleAK))
	key := load(t, on, file, tpm.LoadOptions{UsedAtOnce: true})
	proxy.Handle(nil)
	checkSigns(t, key)
}

func TestACertifiedDecryptionKeyIsWhereTheTPMSays(t *testing.T) {
	t.Parallel()
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	on := tpmtest.Connect(t, proxy.Device())
	key, statement, err := on.NewCertifiedDecryptionKey(t.Context(), []int{7}, handleAK, []byte("nonce"))
	if err != nil {
		t.Fatal(err)
	}
	defer key.Close()
	area, _, err := on.ReadPublic(t.Context(), handleAK)
	if err != nil {
		t.Fatal(err)
	}
	ak, err := tpm2.Unmarshal[tpm2.TPMTPublic](area)
	if err != nil {
		t.Fatal(err)
	}
	public, err := tpm2.Pub(*ak)
	if err != nil {
		t.Fatal(err)
	}
	if len(statement.Signature) == 0 || len(key.PublicArea()) == 0 || public.(*rsa.PublicKey).Size() != 256 {
		t.Error("there is no statement, or none by the attestation key")
	}
	proxy.Handle(exchangingHandle(tpm2.TPMCCCreatePrimary, handleAK))
	if another, _, err := on.NewCertifiedDecryptionKey(t.Context(), []int{7}, handleAK, nil); err == nil {
		_ = another.Close() // always nil
		t.Error("a key at another's handle was taken")
	}
}

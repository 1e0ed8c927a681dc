package tpm_test

import (
	"bytes"
	"crypto"
	"encoding/asn1"
	"encoding/binary"
	"io"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// FuzzParseSignature: no response makes a signature out of nothing. In a session, none is taken
// that the TPM did not make, and what the TPM made means the same as without.
func FuzzParseSignature(f *testing.F) {
	whole := func(parameters []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte{0x80, 2, 0, 0, 0, 0, 0, 0, 0, 0}, uint32(len(parameters)))
		return append(append(b, parameters...), 0, 0, 1, 0, 0)
	}
	rsa := append([]byte{0, 0x14, 0, 0x0b, 1, 0}, bytes.Repeat([]byte{9}, 256)...)
	half := append([]byte{0, 32}, bytes.Repeat([]byte{0x89}, 32)...)
	f.Add(whole(rsa), false)
	f.Add(whole(append([]byte{0, 0x18, 0, 0x0b}, bytes.Repeat(half, 2)...)), true)
	f.Add(whole([]byte{0, 0x18, 0, 0x0b, 0, 0, 0, 0}), true)
	f.Add(whole(append([]byte{0, 0x18, 0, 0x0b, 0, 3, 0, 0, 1}, half...)), true)
	f.Add(tpmtest.Response(0x101), false)
	f.Add(tpm.NewTestSession().Seal(rsa), false)
	f.Fuzz(func(t *testing.T, rsp []byte, elliptic bool) {
		if len(rsp) < 10 {
			return // the transport hands up no less than a header
		}
		scheme := tpm2.TPMAlgRSASSA
		if elliptic {
			scheme = tpm2.TPMAlgECDSA
		}
		sig, err := tpm.ParseSignature(rsp, scheme, tpm2.TPMAlgSHA256)
		if err == nil && !comesFrom(rsp, sig, elliptic) {
			t.Error("the signature is not from the response")
		}
		session := tpm.NewTestSession()
		if _, err := session.ParseSignature(rsp, scheme, tpm2.TPMAlgSHA256); err == nil {
			t.Error("it was taken in a session that it is not of")
		}
		if parameters, ok := parametersOf(rsp); ok {
			sealed := session.Seal(parameters)
			same, sealedErr := session.ParseSignature(sealed, scheme, tpm2.TPMAlgSHA256)
			if err == nil && (sealedErr != nil || !bytes.Equal(sig, same)) {
				t.Errorf("in a session, the signature %x is %x, %v", sig, same, sealedErr)
			}
		}
	})
}

// comesFrom reports whether the numbers of a signature are in the response.
func comesFrom(rsp, sig []byte, elliptic bool) bool {
	if !elliptic {
		return bytes.Contains(rsp, sig)
	}
	var numbers struct{ R, S *big.Int }
	rest, err := asn1.Unmarshal(sig, &numbers)
	return err == nil && len(rest) == 0 && numbers.R.Sign() >= 0 && numbers.S.Sign() >= 0 &&
		bytes.Contains(rsp, numbers.R.Bytes()) && bytes.Contains(rsp, numbers.S.Bytes())
}

func parametersOf(rsp []byte) ([]byte, bool) {
	if len(rsp) < 14 || len(rsp) > 4000 {
		return nil, false
	}
	size := binary.BigEndian.Uint32(rsp[10:])
	if uint64(size) > uint64(len(rsp)-14) {
		return nil, false
	}
	return rsp[14 : 14+size], true
}

// hostile is a TPM that answers with what it has, in its order: for each command a byte that says
// how to frame it, two of length, and the content.
type hostile struct {
	script []byte
	answer []byte
}

const (
	framedSuccess = iota // content is what follows the header of a success
	framedCode           // content is a code
	raw                  // content is all there is
	framings
)

func (h *hostile) Write(command []byte) (int, error) {
	if len(h.script) < 3 {
		return 0, io.ErrClosedPipe
	}
	framing, size := h.script[0]%framings, min(int(binary.BigEndian.Uint16(h.script[1:])), len(h.script)-3)
	content := h.script[3 : 3+size]
	h.script = h.script[3+size:]
	switch framing {
	case framedSuccess:
		h.answer = success(command, content)
	case framedCode:
		var code [4]byte
		copy(code[:], content)
		h.answer = tpmtest.Response(binary.BigEndian.Uint32(code[:]))
	default:
		h.answer = bytes.Clone(content)
	}
	return len(command), nil
}

func (h *hostile) Read(b []byte) (int, error) {
	n := copy(b, h.answer)
	h.answer = h.answer[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (*hostile) Close() error                { return nil }
func (*hostile) SetDeadline(time.Time) error { return nil }

// operations are the requests to a hostile TPM: first the unprotected ones, then the protected
// ones.
func operations(t testing.TB, on *tpm.TPM, key *tpm.Key, file *tpm.KeyFile) (open, protected []func() error) {
	ctx, digest := t.Context(), make([]byte, 32)
	open = []func() error{
		func() error { _, err := on.Properties(ctx); return err },
		func() error { _, _, err := on.ReadPublic(ctx, handleAK); return err },
		func() error { _, err := on.StorageRoot(ctx); return err },
		func() error { _, err := on.ReadPCRs(ctx, selection(7)); return err },
		func() error { _, err := on.ReadNV(ctx, nvAKCertificate); return err },
	}
	protected = []func() error{
		func() error { _, err := key.Sign(ctx, tpm2.TPMAlgECDSA, crypto.SHA256, digest); return err },
		func() error {
			k, err := on.LoadKey(ctx, file, tpm.LoadOptions{})
			if err == nil {
				_ = k.Close() // always nil
			}
			return err
		},
		func() error { _, err := on.CreateKey(ctx, tpm.KeyOptions{Algorithm: tpm.ECDSAP256}); return err },
		func() error { _, err := on.Certify(ctx, key, handleAK, nil); return err },
		func() error { _, err := on.Quote(ctx, handleAK, []int{7}, nil); return err },
		func() error { return key.Persist(ctx, place) },
	}
	return open, protected
}

// FuzzHostileTPM: whatever answers, nothing panics, and commands protected by a session do not
// succeed without the TPM's HMAC.
func FuzzHostileTPM(f *testing.F) {
	proxy := tpmtest.NewProxy(f, tpmtest.Simulator(f).Device())
	on := tpmtest.Connect(f, proxy.Device())
	file := create(f, on, tpm.KeyOptions{})
	key := load(f, on, file, tpm.LoadOptions{})
	if err := on.Close(); err != nil {
		f.Fatal(err)
	}
	for _, plain := range []bool{false, true} {
		on := tpmtest.ConnectWith(f, tpm.Config{Device: proxy.Device(), PlainSessions: plain})
		open, protected := operations(f, on, load(f, on, file, tpm.LoadOptions{}), file)
		for i, run := range append(open, protected...) {
			f.Add(recorded(proxy, run), byte(i), plain) // #nosec G115 -- eleven
		}
		if err := on.Close(); err != nil {
			f.Fatal(err)
		}
	}
	f.Fuzz(func(t *testing.T, script []byte, which byte, plain bool) {
		if len(script) > 8<<10 {
			return
		}
		on, err := tpm.OpenStream(t.Context(), &hostile{script: script}, tpm.Config{PlainSessions: plain, CommandTimeout: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		defer on.Close()
		open, protected := operations(t, on, key.On(on, 0x80000001), file)
		if i := int(which) % (len(open) + len(protected)); i < len(open) {
			_ = open[i]() // it may succeed: none of it is proven
		} else if err := protected[i-len(open)](); err == nil && !plain {
			t.Errorf("operation %d succeeded", i)
		}
	})
}

// recorded runs something and writes the answers down as a hostile TPM's script.
func recorded(proxy *tpmtest.Proxy, run func() error) []byte {
	var script []byte
	var mu sync.Mutex // the flush of a key that was closed may go on
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		rsp, err := forward(command)
		mu.Lock()
		defer mu.Unlock()
		framing, content := byte(framedSuccess), rsp[10:]
		if answered(rsp) != tpm2.TPMRCSuccess {
			framing, content = framedCode, rsp[6:10]
		}
		script = append(script, framing)
		script = append(binary.BigEndian.AppendUint16(script, uint16(len(content))), content...) // #nosec G115 -- at most 4096
		return rsp, err
	})
	defer proxy.Handle(nil)
	_ = run() // also an error is an example
	mu.Lock()
	defer mu.Unlock()
	return bytes.Clone(script)
}

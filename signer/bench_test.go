package signer_test

import (
	"crypto"
	"crypto/rsa"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/signer/internal/signertest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkSign compares Key.Sign (queue, TPM2_Sign, verification) with the bare TPM2_Sign:
// prebuilt bytes written to the same simulator over a socket of its own, and the response read.
// Both sign in turn within one run, so that whatever disturbs the machine disturbs both; the ratio
// is the message, the times are of this machine.
//
// In the plain form, what the key may cost is part of the reference: three hundredths of the
// exchange, and the one verification that no signature leaves without, which is measured in the
// same run. The protected form, the default, is held against the bare exchange alone.
func BenchmarkSign(b *testing.B) {
	device := tpmtest.Shared(b).Device()
	path := signertest.KeyPath(b)
	b.Run("plain", func(b *testing.B) { benchmarkSign(b, device, path, true) })
	b.Run("protected", func(b *testing.B) { benchmarkSign(b, device, path, false) })
}

// benchmarkSign opens the TPM for itself, and closes it in the end: there are three slots for keys,
// and each side needs one.
func benchmarkSign(b *testing.B, device, path string, plain bool) {
	b.Helper()
	key := signertest.Open(b, tpmtest.ConnectWith(b, tpm.Config{Device: device, PlainSessions: plain}), path)
	for _, padding := range []struct {
		name   string
		opts   crypto.SignerOpts
		scheme tpm2.TPMAlgID
	}{
		{"PKCS1", crypto.SHA256, tpm2.TPMAlgRSASSA},
		{"PSS", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, tpm2.TPMAlgRSAPSS},
	} {
		b.Run(padding.name, func(b *testing.B) {
			p := &pair{key: key, opts: padding.opts, bare: newBareSign(b, device, contents(b, path), padding.scheme)}
			p.measure(b)
			p.report(b, plain)
		})
	}
}

// pair is a key and what it is compared with, and the time that each has taken.
type pair struct {
	key  *signer.Key
	opts crypto.SignerOpts
	bare *bareSign

	ours, exchanges, verifications time.Duration
}

// measure takes one signature and one exchange in turn; the order changes each time.
func (p *pair) measure(b *testing.B) {
	b.Helper()
	digest := signertest.Digest(crypto.SHA256, "benchmark")
	var signature []byte
	sign := func() (err error) {
		signature, err = p.key.WithContext(b.Context()).Sign(nil, digest, p.opts)
		return err
	}
	exchange := func() error { p.bare.exchange(b); return nil }
	timed(b, new(time.Duration), sign) // once for nothing: the key is loaded, the session made
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			timed(b, &p.ours, sign)
			timed(b, &p.exchanges, exchange)
		} else {
			timed(b, &p.exchanges, exchange)
			timed(b, &p.ours, sign)
		}
		timed(b, &p.verifications, func() error { return verify(p.key, digest, signature, p.opts) })
	}
	b.ReportMetric(allocations(b, sign)-allocations(b, exchange), "ours-allocs")
}

// allocations counts what f allocates. The simulated TPM is in this process: what it allocates for
// an exchange is the same for both sides.
func allocations(b *testing.B, f func() error) float64 {
	return testing.AllocsPerRun(100, func() {
		if err := f(); err != nil {
			b.Fatal(err)
		}
	})
}

func timed(b *testing.B, sum *time.Duration, f func() error) {
	start := time.Now()
	if err := f(); err != nil {
		b.Fatal(err)
	}
	*sum += time.Since(start)
}

func verify(key *signer.Key, digest, signature []byte, opts crypto.SignerOpts) error {
	public := key.Public().(*rsa.PublicKey)
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		return rsa.VerifyPSS(public, crypto.SHA256, digest, signature, pss)
	}
	return rsa.VerifyPKCS1v15(public, crypto.SHA256, digest, signature)
}

// The bars of a plain signature: its share over the exchange, and its allocations.
const (
	plainShare  = 1.03
	plainAllocs = 30
)

func (p *pair) report(b *testing.B, plain bool) {
	b.Helper()
	n := float64(b.N)
	ours, reference := float64(p.ours.Nanoseconds())/n, float64(p.exchanges.Nanoseconds())/n
	b.ReportMetric(ours/reference, "over-bare")
	if plain {
		reference = plainShare*reference + float64(p.verifications.Nanoseconds())/n
		b.ReportMetric(plainAllocs, "reference-allocs")
	}
	b.ReportMetric(ours, "ours-ns")
	b.ReportMetric(reference, "reference-ns")
	b.ReportMetric(ours/reference, "ratio")
}

// bareSign is a TPM2_Sign command, ready to be sent.
type bareSign struct {
	conn     net.Conn
	command  []byte
	response [4096]byte
}

// newBareSign loads the key on a connection of its own.
func newBareSign(b *testing.B, device string, keyFile []byte, scheme tpm2.TPMAlgID) *bareSign {
	b.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(device, "unix:"))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = conn.Close() })
	s := &bareSign{conn: conn}
	handle := s.load(b, keyFile)
	s.command, err = signCommand(handle, scheme)
	if err != nil {
		b.Fatal(err)
	}
	return s
}

// Send makes bareSign a transport.TPM, to load the key with.
func (s *bareSign) Send(command []byte) ([]byte, error) {
	if _, err := s.conn.Write(command); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(s.conn, s.response[:10]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(s.response[2:])
	_, err := io.ReadFull(s.conn, s.response[10:size])
	return s.response[:size], err
}

func (s *bareSign) load(b *testing.B, text []byte) tpm2.NamedHandle {
	b.Helper()
	file, err := tpm.DecodeKeyFile(text)
	if err != nil {
		b.Fatal(err)
	}
	root, err := tpm2.ReadPublic{ObjectHandle: tpm.HandleSRK}.Execute(s)
	if err != nil {
		b.Fatal(err)
	}
	rsp, err := tpm2.Load{
		ParentHandle: tpm2.AuthHandle{Handle: tpm.HandleSRK, Name: root.Name, Auth: tpm2.PasswordAuth(nil)},
		InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](file.Public[2:]),
		InPrivate:    tpm2.TPM2BPrivate{Buffer: file.Private[2:]},
	}.Execute(s)
	if err != nil {
		b.Fatal(err)
	}
	return tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}
}

// signCommand lets go-tpm write the bytes, so that the reference owes nothing to our code.
func signCommand(key tpm2.NamedHandle, scheme tpm2.TPMAlgID) ([]byte, error) {
	var written capture
	details := tpm2.NewTPMUSigScheme(scheme, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})
	_, _ = tpm2.Sign{
		KeyHandle:  tpm2.AuthHandle{Handle: key.Handle, Name: key.Name, Auth: tpm2.PasswordAuth(nil)},
		Digest:     tpm2.TPM2BDigest{Buffer: signertest.Digest(crypto.SHA256, "benchmark")},
		InScheme:   tpm2.TPMTSigScheme{Scheme: scheme, Details: details},
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull},
	}.Execute(&written)
	if written.command == nil {
		return nil, io.ErrUnexpectedEOF
	}
	return written.command, nil
}

// capture is a transport that keeps the command and answers nothing.
type capture struct{ command []byte }

func (c *capture) Send(command []byte) ([]byte, error) {
	c.command = append([]byte(nil), command...)
	return nil, io.EOF
}

func (s *bareSign) exchange(b *testing.B) {
	rsp, err := s.Send(s.command)
	if err != nil || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		b.Fatalf("%v: % x", err, rsp[:min(10, len(rsp))])
	}
}

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
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkSign compares Key.Sign (queue, TPM2_Sign, verification) with the bare TPM2_Sign: prebuilt bytes written to the
// same simulator over a socket of its own, and the response read. Both sign in turn within one run, so that whatever
// disturbs the machine disturbs both; the ratio is the message, the times are of this machine.
func BenchmarkSign(b *testing.B) {
	device := tpmtest.Simulator(b).Device()
	on := tpmtest.Connect(b, device)
	path := keyPath(b)
	key := open(b, on, path)
	for _, bb := range []struct {
		name   string
		opts   crypto.SignerOpts
		scheme tpm2.TPMAlgID
	}{
		{"PKCS1", crypto.SHA256, tpm2.TPMAlgRSASSA},
		{"PSS", &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256}, tpm2.TPMAlgRSAPSS},
	} {
		b.Run(bb.name, func(b *testing.B) { pair(b, key, bb.opts, newBareSign(b, device, contents(b, path), bb.scheme)) })
	}
}

// pair measures both in turn; the order changes each time.
func pair(b *testing.B, key *signer.Key, opts crypto.SignerOpts, bare *bareSign) {
	b.Helper()
	digest := digest(crypto.SHA256, "benchmark")
	var ours, reference time.Duration
	sign := func() {
		start := time.Now()
		if _, err := key.WithContext(b.Context()).Sign(nil, digest, opts); err != nil {
			b.Fatal(err)
		}
		ours += time.Since(start)
	}
	exchange := func() {
		start := time.Now()
		bare.exchange(b)
		reference += time.Since(start)
	}
	sign()
	exchange()
	ours, reference = 0, 0
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if i%2 == 0 {
			sign()
			exchange()
		} else {
			exchange()
			sign()
		}
	}
	n := float64(b.N)
	b.ReportMetric(float64(ours.Nanoseconds())/n, "ours-ns")
	b.ReportMetric(float64(reference.Nanoseconds())/n, "reference-ns")
	b.ReportMetric(float64(ours)/float64(reference), "ratio")
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
		Digest:     tpm2.TPM2BDigest{Buffer: digest(crypto.SHA256, "benchmark")},
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

package tpm

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/tpm/internal/device"
)

// Unopened returns a TPM whose queue works and that has no device.
func Unopened(ctx context.Context) *TPM {
	return unopened(ctx, device.Address{Path: "/nonexistent"}, Config{})
}

// ParseSignature is parseSignature, for fuzzing.
func ParseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	return parseSignature(rsp, scheme, hash, nil)
}

// KnownPrimaries says what each of the storage keys is called that can be made anew.
func KnownPrimaries() (titles []string) {
	for _, p := range knownPrimaries() {
		titles = append(titles, p.title)
	}
	return titles
}

// PersistAt is the line for the shell that makes a known primary persistent.
func PersistAt(index int, h tpm2.TPMHandle, password bool) string {
	return knownPrimaries()[index].persistAt(h, password)
}

// PrimaryName makes a known primary and returns its Name.
func (t *TPM) PrimaryName(ctx context.Context, index int) (name []byte, err error) {
	err = t.do(ctx, func(turn *turn) error {
		o, err := createPrimary(turn, index)
		if err == nil {
			turn.release(o)
		}
		name = o.name
		return err
	})
	return name, err
}

// SetClock lets the TPM read another clock.
func (t *TPM) SetClock(now func() time.Time) { t.known.now = now }

// OpenStream returns a TPM behind a stream that is open. Once that is lost, there is no other.
func OpenStream(ctx context.Context, s device.Stream, cfg Config) (*TPM, error) {
	t := unopened(ctx, device.Address{Network: "unix", Path: "/nonexistent"}, cfg)
	return t, t.device.Attach(s)
}

// On returns the key as if it were loaded in another TPM.
func (k *Key) On(t *TPM, h tpm2.TPMHandle) *Key {
	moved := &Key{tpm: t, file: k.file, auth: k.auth, policy: k.policy, pcrs: k.pcrs, object: k.object, key: k.key}
	begun, err := t.device.Begin(context.Background())
	if err == nil {
		begun.Keep(&moved.resident, h, k.object.name)
		begun.End()
	}
	return moved
}

// TestSession is a session whose key nobody knows, and a response in it.
type TestSession struct{ a *authorization }

// NewTestSession starts one.
func NewTestSession() TestSession {
	s := &session{key: make([]byte, 32), nonceCaller: make([]byte, nonceBytes), nonceTPM: make([]byte, nonceBytes)}
	_, _ = rand.Read(s.key) // never fails
	return TestSession{s.authorize(nil, attrDecrypt)}
}

// Seal makes the response to a TPM2_Sign with these parameters, as the TPM does.
func (s TestSession) Seal(parameters []byte) []byte {
	nonce := make([]byte, nonceBytes)
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTSessions))
	b = binary.BigEndian.AppendUint32(b, uint32(device.HeaderBytes+4+len(parameters)+2+nonceBytes+1+2+macBytes))
	b = binary.BigEndian.AppendUint32(b, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(len(parameters)))
	b = append(b, parameters...)
	b = append(binary.BigEndian.AppendUint16(b, nonceBytes), nonce...)
	b = append(b, attrContinueSession)
	mac := s.a.responseMAC(tpm2.TPMCCSign, parameters, attrContinueSession)
	return append(binary.BigEndian.AppendUint16(b, macBytes), mac...)
}

// ParseSignature is parseSignature of a response in the session.
func (s TestSession) ParseSignature(rsp []byte, scheme, hash tpm2.TPMAlgID) ([]byte, error) {
	return parseSignature(rsp, scheme, hash, s.a)
}

// OpenDescribed opens a character device that sysfs, a directory in place of /sys, describes.
func OpenDescribed(ctx context.Context, path, sysfs string, cfg Config) (*TPM, error) {
	t := unopened(ctx, device.Address{Path: path, Sysfs: sysfs}, cfg)
	_, err := t.Properties(ctx)
	return t, err
}

package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/aes"
	"crypto/ecdh"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"sync"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file puts an interposer between agent and TPM that shows a storage root of its own, whose
// private part it has. Salts are encrypted to it then, so that it knows the keys of sessions.

// impostor answers for the TPM whatever concerns the storage root, and passes on the rest until a
// session is salted to its root.
type impostor struct {
	persistent bool // the root is at the persistent handle, RSA; else it is derived, ECC
	rsa        *rsa.PrivateKey
	ecc        *ecdh.PrivateKey

	mu         sync.Mutex
	salted     int // sessions that were salted to its root
	sessionKey []byte
	nonceTPM   []byte
	authValue  []byte // what it read out of TPM2_Create
}

const impostorRoot tpm2.TPMHandle = 0x80ffff00 // the handle of its derived root

func newImpostor(t *testing.T, persistent bool) *impostor {
	t.Helper()
	m := &impostor{persistent: persistent, nonceTPM: bytes.Repeat([]byte{0x5a}, 16)}
	var err error
	if persistent {
		m.rsa, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		m.ecc, err = ecdh.P256().GenerateKey(rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// public is its root's public area, in the TCG's template.
func (m *impostor) public() tpm2.TPMTPublic {
	if m.persistent {
		p := tpm2.RSASRKTemplate
		p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: m.rsa.N.Bytes()})
		return p
	}
	point := m.ecc.PublicKey().Bytes()
	p := tpm2.ECCSRKTemplate
	p.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: point[1:33]}, Y: tpm2.TPM2BECCParameter{Buffer: point[33:]},
	})
	return p
}

// handle is its [tpmtest.Handler].
func (m *impostor) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch code := codeOf(command); {
	case code == tpm2.TPMCCReadPublic && handleOf(command) == tpm.HandleSRK:
		if m.persistent {
			return success(command, m.readPublic()), nil
		}
		return tpmtest.Response(0x18b), nil
	case code == tpm2.TPMCCCreatePrimary && !m.persistent:
		return success(command, m.createPrimary()), nil
	case code == tpm2.TPMCCStartAuthSession:
		return success(command, m.startSession(command)), nil
	case code == tpm2.TPMCCCreate && m.sessionKey != nil:
		m.authValue = m.readCreate(command)
		return tpmtest.Response(uint32(tpm2.TPMRCFailure)), nil
	case code == tpm2.TPMCCFlushContext && (handleOf(command) == impostorRoot || m.salted > 0):
		return success(command, nil), nil
	}
	return forward(command)
}

func handleOf(command []byte) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(command[10:]))
}

func (m *impostor) name() []byte {
	digest := sha256.Sum256(tpm2.Marshal(m.public()))
	return append([]byte{0, 0x0b}, digest[:]...)
}

func (m *impostor) readPublic() []byte {
	b := tpm2.Marshal(tpm2.New2B(m.public()))
	b = append(b, tpm2.Marshal(tpm2.TPM2BName{Buffer: m.name()})...)
	qualified := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHOwner)), m.name()...))
	return append(b, tpm2.Marshal(tpm2.TPM2BName{Buffer: append([]byte{0, 0x0b}, qualified[:]...)})...)
}

func (m *impostor) createPrimary() []byte {
	parameters := tpm2.Marshal(tpm2.New2B(m.public()))
	parameters = append(parameters, tpm2.Marshal(tpm2.New2B(tpm2.TPMSCreationData{}))...)
	parameters = append(parameters, tpm2.Marshal(tpm2.TPM2BDigest{})...)
	parameters = append(parameters, tpm2.Marshal(tpm2.TPMTTKCreation{Tag: tpm2.TPMSTCreation, Hierarchy: tpm2.TPMRHNull})...)
	parameters = append(parameters, tpm2.Marshal(tpm2.TPM2BName{Buffer: m.name()})...)
	b := binary.BigEndian.AppendUint32(nil, uint32(impostorRoot))
	b = binary.BigEndian.AppendUint32(b, uint32(len(parameters)))
	return append(append(b, parameters...), 0, 0, 1, 0, 0) // a password's session area
}

// startSession decrypts the salt, and so has the session's key.
func (m *impostor) startSession(command []byte) []byte {
	m.salted++
	const nonce, salt = 10 + 4 + 4 + 2, 10 + 4 + 4 + 2 + 16 + 2
	size := int(binary.BigEndian.Uint16(command[salt-2:]))
	m.sessionKey = tpm2.KDFa(crypto.SHA256, m.open(command[salt:salt+size]), "ATH", m.nonceTPM, command[nonce:nonce+16], 256)
	b := binary.BigEndian.AppendUint32(nil, 0x02000000)
	return append(b, tpm2.Marshal(tpm2.TPM2BNonce{Buffer: m.nonceTPM})...)
}

// open decrypts a salt (TPM 2.0 Part 1, B.10.2 and C.6.3).
func (m *impostor) open(encrypted []byte) []byte {
	if m.persistent {
		salt, err := rsa.DecryptOAEP(sha256.New(), nil, m.rsa, encrypted, []byte("SECRET\x00"))
		if err != nil {
			return nil
		}
		return salt
	}
	point, err := tpm2.Unmarshal[tpm2.TPMSECCPoint](encrypted)
	if err != nil {
		return nil
	}
	other, err := ecdh.P256().NewPublicKey(append(append([]byte{4}, point.X.Buffer...), point.Y.Buffer...))
	if err != nil {
		return nil
	}
	z, err := m.ecc.ECDH(other)
	if err != nil {
		return nil
	}
	return tpm2.KDFe(crypto.SHA256, z, "SECRET", point.X.Buffer, m.ecc.PublicKey().Bytes()[1:33], 256)
}

// readCreate decrypts the sensitive area of TPM2_Create, TPM2B_SENSITIVE_CREATE, and returns the
// authorization value in it.
func (m *impostor) readCreate(command []byte) []byte {
	const nonce, parameters = 10 + 4 + 4 + 4 + 2, 10 + 4 + 4 + 57
	size := int(binary.BigEndian.Uint16(command[parameters:]))
	sensitive := bytes.Clone(command[parameters+2 : parameters+2+size])
	k := tpm2.KDFa(crypto.SHA256, m.sessionKey, "CFB", command[nonce:nonce+16], m.nonceTPM, 256)
	block, err := aes.NewCipher(k[:16])
	if err != nil {
		return nil
	}
	feedback, pad := k[16:], make([]byte, 16)
	for rest := sensitive; len(rest) > 0; {
		block.Encrypt(pad, feedback)
		n := min(16, len(rest))
		feedback = bytes.Clone(rest[:n])
		subtle.XORBytes(rest[:n], rest[:n], pad[:n])
		rest = rest[n:]
	}
	if n := int(binary.BigEndian.Uint16(sensitive)); len(sensitive) >= 2+n {
		return sensitive[2 : 2+n]
	}
	return nil
}

// eachImpostor runs a test with an impostor for each kind of root, before a machine that has one of
// this kind.
func eachImpostor(t *testing.T, run func(t *testing.T, m *impostor, device string)) {
	t.Helper()
	t.Run("at the persistent handle", func(t *testing.T) {
		run(t, newImpostor(t, true), tpmtest.Simulator(t).Device())
	})
	t.Run("in place of the derived one", func(t *testing.T) {
		run(t, newImpostor(t, false), tpmtest.Bare(t).Device())
	})
}

const rootedPassword = "what the impostor wants"

func createWithPassword(t *testing.T, on *tpm.TPM) error {
	t.Helper()
	_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256, AuthValue: secret.New(rootedPassword)})
	return err
}

func TestAKnownStorageRootCannotBeExchanged(t *testing.T) {
	t.Parallel()
	eachImpostor(t, func(t *testing.T, m *impostor, device string) {
		root, err := tpmtest.Connect(t, device).StorageRoot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		proxy := tpmtest.NewProxy(t, device)
		on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), StorageRoot: root.Name})
		proxy.Handle(m.handle)
		fails(t, createWithPassword(t, on), tpm.ErrStorageRoot)
		_, err = on.StorageRoot(t.Context())
		fails(t, err, tpm.ErrStorageRoot)
		if m.salted != 0 {
			t.Errorf("%d sessions were started all the same", m.salted)
		}
		proxy.Handle(nil)
		on.SetClock(func() time.Time { return time.Now().Add(time.Hour) }) // what was searched for in vain is searched for again
		if err := createWithPassword(t, on); err != nil {
			t.Errorf("with the right one: %v", err)
		}
	})
}

// This is the limit of what a session can protect: see Config.StorageRoot.
func TestWithoutAKnownStorageRootAnImpostorIsBelievedOnFirstUse(t *testing.T) {
	t.Parallel()
	eachImpostor(t, func(t *testing.T, m *impostor, device string) {
		proxy := tpmtest.NewProxy(t, device)
		on := tpmtest.Connect(t, proxy.Device())
		proxy.Handle(m.handle)
		root, err := on.StorageRoot(t.Context())
		if err != nil || !bytes.Equal(root.Name, m.name()) {
			t.Fatalf("%+v, %v", root, err)
		}
		fails(t, createWithPassword(t, on), tpm2.TPMRCFailure) // it has what it wants
		if string(m.authValue) != rootedPassword {
			t.Errorf("the impostor read %q", m.authValue)
		}
		proxy.Handle(nil)
		fails(t, createWithPassword(t, on), tpm.ErrStorageRoot) // it cannot leave unnoticed either
	})
}

func TestAnImpostorAfterTheFirstUseIsNoticed(t *testing.T) {
	t.Parallel()
	eachImpostor(t, func(t *testing.T, m *impostor, device string) {
		proxy := tpmtest.NewProxy(t, device)
		on := tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), SessionUses: 1})
		key := newKey(t, on)
		checkSigns(t, key)
		proxy.Handle(m.handle)
		_, err := sign(t, key)
		fails(t, err, tpm.ErrStorageRoot)
		fails(t, createWithPassword(t, on), tpm.ErrStorageRoot)
		if m.salted != 0 {
			t.Errorf("%d sessions were started all the same", m.salted)
		}
		proxy.Handle(nil)
		on.SetClock(func() time.Time { return time.Now().Add(time.Hour) })
		checkSigns(t, key)
	})
}

func TestAClearedTPMHasAnotherStorageRoot(t *testing.T) {
	t.Parallel()
	v := tpmtest.Bare(t)
	on := tpmtest.Connect(t, v.Device())
	file := create(t, on, tpm.KeyOptions{})
	root, err := on.StorageRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := (tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)}}).Execute(v); err != nil {
		t.Fatal(err)
	}
	for name, on := range map[string]*tpm.TPM{
		"in the same process":   on,
		"known from earlier":    tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), StorageRoot: root.Name}),
		"known, with passwords": tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), StorageRoot: root.Name, PlainSessions: true}),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := on.CreateKey(t.Context(), tpm.KeyOptions{Algorithm: tpm.ECDSAP256})
			fails(t, err, tpm.ErrStorageRoot)
		})
	}
	_, err = tpmtest.Connect(t, v.Device()).LoadKey(t.Context(), file, tpm.LoadOptions{})
	fails(t, err, tpm.ErrForeignTPM)
}

// What StorageRoot gives away is a copy.
func TestTheKnownStorageRootIsNotTheCallers(t *testing.T) {
	t.Parallel()
	on := tpmtest.Connect(t, tpmtest.Bare(t).Device())
	root, err := on.StorageRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	clear(root.Name)
	if _, err := on.StorageRoot(t.Context()); err != nil {
		t.Error(err)
	}
}

package signertest

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"math/big"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/signer"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// KeyPath is where a key file may be made.
func KeyPath(t testing.TB) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "binding.pem")
}

// Open opens a key and closes it when the test ends.
func Open(t testing.TB, on *tpm.TPM, path string) *signer.Key {
	t.Helper()
	k, err := signer.Open(t.Context(), signer.Config{TPM: on, KeyFile: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

// Digest hashes a message.
func Digest(h crypto.Hash, message string) []byte {
	d := h.New()
	d.Write([]byte(message))
	return d.Sum(nil)
}

// OtherMaker is a TPM of another make: a proxy that plays one key in software and passes the rest
// on. The TPMs that tests have all take the right salt; this one takes what Sign gives. It does not
// know sessions.
type OtherMaker struct {
	key  *rsa.PrivateKey
	area []byte // TPMT_PUBLIC
	Sign func(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error)
}

// softKeyHandle is where the software key is "loaded".
const softKeyHandle = 0x80fffff0

// NewOtherMaker starts such a TPM and writes a key file for it.
func NewOtherMaker(t testing.TB, key *rsa.PrivateKey) (m *OtherMaker, on *tpm.TPM, path string) {
	t.Helper()
	template := tpm.BindingKeyTemplate()
	template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: key.N.Bytes()})
	m = &OtherMaker{key: key, area: tpm2.Marshal(template), Sign: SignSoftly}
	proxy := tpmtest.NewProxy(t, tpmtest.Simulator(t).Device())
	proxy.Handle(m.handle)
	file := tpm.KeyFile{Parent: tpm.HandleSRK, EmptyAuth: true, Public: tpm2.Marshal(tpm2.New2B(template)), Private: []byte{0, 1, 0}}
	path = KeyPath(t)
	if err := statefile.WriteNew(path, file.Encode()); err != nil {
		t.Fatal(err)
	}
	return m, tpmtest.ConnectWith(t, tpm.Config{Device: proxy.Device(), PlainSessions: true}), path
}

func (m *OtherMaker) handle(command []byte, forward tpmtest.Forward) ([]byte, error) {
	code := tpm2.TPMCC(tpmtest.CommandCode(command))
	if code == tpm2.TPMCCLoad {
		return respond(true, binary.BigEndian.AppendUint32(nil, softKeyHandle), sized(m.name())), nil
	}
	if len(command) < 14 || binary.BigEndian.Uint32(command[10:]) != softKeyHandle {
		return forward(command)
	}
	switch code {
	case tpm2.TPMCCReadPublic:
		return respond(false, nil, append(append(sized(m.area), sized(m.name())...), sized(m.name())...)), nil
	case tpm2.TPMCCFlushContext:
		return tpmtest.Response(0), nil
	case tpm2.TPMCCSign:
		return m.signResponse(command[27:])
	}
	return nil, errors.New("not played")
}

func (m *OtherMaker) name() []byte {
	h := crypto.SHA256.New()
	h.Write(m.area)
	return h.Sum([]byte{0, 0x0b})
}

// signResponse answers TPM2_Sign; parameters begin with the digest.
func (m *OtherMaker) signResponse(parameters []byte) ([]byte, error) {
	size := binary.BigEndian.Uint16(parameters)
	digest, scheme := parameters[2:2+size], parameters[2+size:]
	alg := tpm2.TPMAlgID(binary.BigEndian.Uint16(scheme))
	h, err := tpm2.TPMAlgID(binary.BigEndian.Uint16(scheme[2:])).Hash()
	if err != nil {
		return nil, err
	}
	sig, err := m.Sign(m.key, alg, h, digest)
	var code tpm2.TPMRC
	if errors.As(err, &code) {
		return tpmtest.Response(uint32(code)), nil
	}
	return respond(true, nil, append(append([]byte{}, scheme[:4]...), sized(sig)...)), err
}

// SignSoftly signs as a good TPM does.
func SignSoftly(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte) ([]byte, error) {
	return SoftSignature(key, scheme, h, digest, h.Size())
}

// SoftSignature signs in software, PSS with a salt of as many bytes.
func SoftSignature(key *rsa.PrivateKey, scheme tpm2.TPMAlgID, h crypto.Hash, digest []byte, salt int) ([]byte, error) {
	if scheme == tpm2.TPMAlgRSAPSS {
		return rsa.SignPSS(rand.Reader, key, h, digest, &rsa.PSSOptions{SaltLength: salt})
	}
	return rsa.SignPKCS1v15(rand.Reader, key, h, digest)
}

func sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...) // #nosec G115 -- short
}

// respond makes a successful response.
func respond(sessions bool, handles, parameters []byte) []byte {
	tag, body := uint16(0x8001), append(handles, parameters...)
	if sessions {
		tag = 0x8002
		body = append(handles, binary.BigEndian.AppendUint32(nil, uint32(len(parameters)))...) // #nosec G115 -- short
		body = append(append(body, parameters...), 0, 0, 1, 0, 0)
	}
	b := binary.BigEndian.AppendUint16(nil, tag)
	b = binary.BigEndian.AppendUint32(b, uint32(10+len(body))) // #nosec G115 -- short
	return append(binary.BigEndian.AppendUint32(b, 0), body...)
}

// SoftKey is an RSA-2048 key in software.
func SoftKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	if new(big.Int).SetBytes(key.N.Bytes()).BitLen() != 2048 {
		t.Fatal("a modulus of less than 2048 bits")
	}
	return key
}

// CreateAs makes a key under the persistent storage root that is not quite a binding key, as
// another program may.
func CreateAs(ctx context.Context, on *tpm.TPM, change func(*tpm2.TPMTPublic)) (*tpm.KeyFile, error) {
	_, name, err := on.ReadPublic(ctx, tpm.HandleSRK)
	if err != nil {
		return nil, err
	}
	template := tpm.BindingKeyTemplate()
	change(&template)
	var file *tpm.KeyFile
	err = on.Do(ctx, func(c transport.TPM) error {
		rsp, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: tpm.HandleSRK, Name: tpm2.TPM2BName{Buffer: name}, Auth: tpm2.PasswordAuth(nil)},
			InPublic:     tpm2.New2B(template),
		}.Execute(c)
		if err != nil {
			return err
		}
		file = &tpm.KeyFile{Parent: tpm.HandleSRK, EmptyAuth: true, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	return file, err
}

// OtherProgramsKey is a key that signs and decrypts, made under the persistent storage root.
func OtherProgramsKey(t testing.TB, on *tpm.TPM) *tpm.KeyFile {
	t.Helper()
	f, err := CreateAs(t.Context(), on, func(p *tpm2.TPMTPublic) { p.ObjectAttributes.Decrypt = true })
	if err != nil {
		t.Fatal(err)
	}
	return f
}

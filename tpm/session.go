package tpm

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm/internal/device"
	"github.com/keyagent/keyagent/tpm/internal/rc"
)

// nonceBytes is the size of the nonces of a session; the specification's minimum (TPM 2.0 Part 3,
// 11.1).
const nonceBytes = 16

// macBytes is the size of a session's HMACs.
const macBytes = sha256.Size

// Bits of TPMA_SESSION (TPM 2.0 Part 2, 8.4).
const (
	attrContinueSession = 1 << 0
	attrDecrypt         = 1 << 5 // the first parameter of the command is encrypted
	attrEncrypt         = 1 << 6 // the first parameter of the response is encrypted
)

// ErrTampered is in the error for an answer that the TPM did not give: its HMAC, under a key that
// only the TPM and this process know, is wrong. The answer was not used.
var ErrTampered = errors.New("the TPM's answer was changed on its way")

// session is an HMAC or policy session that was salted to the storage root: its key can be computed
// only with the storage root's private part, which never leaves the TPM (TPM 2.0 Part 1, 19.6.8).
// It uses SHA-256 and AES-128-CFB, and belongs to the turn.
type session struct {
	handle      tpm2.TPMHandle
	key         []byte // sessionKey
	nonceTPM    []byte // the newest
	nonceCaller []byte // the newest
	root        object // that it was salted to; of no session that is not salted

	uses    int
	pending bool // it is in use, or was and what became of the nonces is not known
}

// startSession makes a session. The salt is encrypted to the storage root, whose Name was checked:
// with a key of their own in its place, an interposer could decrypt the salt.
func startSession(t *turn, kind tpm2.TPMSE) (*session, error) {
	// A session does not outlive its boot: while it works, objects made meanwhile are of the same
	// boot.
	if err := t.FindBoot(); err != nil {
		t.tpm.log.Debug("TPM does not tell whether it was reset", "cause", err)
	}
	root, err := storageRoot(t)
	if err != nil {
		return nil, err
	}
	s, err := startSalted(t, kind, root)
	t.release(root)
	defer t.salted(root)
	if !t.mayBeStale(root, err) {
		return s, err
	}
	if root, err = storageRoot(t); err != nil {
		return nil, err
	}
	defer t.release(root)
	return startSalted(t, kind, root)
}

// startSalted makes a session that is salted to a storage key.
func startSalted(t *turn, kind tpm2.TPMSE, root object) (*session, error) {
	recipient, err := tpm2.ImportEncapsulationKey(&root.public)
	if err != nil {
		return nil, fmt.Errorf("salting a session to the storage root: %w", err)
	}
	salt, encrypted, err := tpm2.CreateEncryptedSalt(rand.Reader, recipient)
	if err != nil {
		return nil, fmt.Errorf("salting a session to the storage root: %w", err)
	}
	s := &session{root: root, nonceCaller: make([]byte, nonceBytes)}
	if err := s.newNonce(); err != nil {
		return nil, err
	}
	start := tpm2.StartAuthSession{
		TPMKey:        root.handle,
		Bind:          tpm2.TPMRHNull,
		NonceCaller:   tpm2.TPM2BNonce{Buffer: s.nonceCaller},
		EncryptedSalt: tpm2.TPM2BEncryptedSecret{Buffer: encrypted},
		SessionType:   kind,
		Symmetric: tpm2.TPMTSymDef{
			Algorithm: tpm2.TPMAlgAES,
			KeyBits:   tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)),
			Mode:      tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		AuthHash: tpm2.TPMAlgSHA256,
	}
	rsp, err := start.Execute(t)
	for pause := device.FirstPause; fullOfSessions(err) && pause < device.MaxPause; pause *= 2 {
		// Other programs' sessions come and go.
		if err := t.Pause(pause); err != nil {
			return nil, err
		}
		rsp, err = start.Execute(t)
	}
	if err != nil {
		t.Discard()
		return nil, fmt.Errorf("starting a session: %w", err)
	}
	s.handle, s.nonceTPM = rsp.SessionHandle, rsp.NonceTPM.Buffer
	t.Keep(s, s.handle, nil)
	s.key = tpm2.KDFa(crypto.SHA256, salt, "ATH", s.nonceTPM, s.nonceCaller, 8*sha256.Size)
	return s, nil
}

// fullOfSessions is sessionsFull of an error.
func fullOfSessions(err error) bool {
	var code tpm2.TPMRC
	return errors.As(err, &code) && rc.SessionsFull(code)
}

// GivesWay is true between two commands: another session can be started then.
func (s *session) GivesWay() bool { return !s.pending }

// Retired is false: a session is given up when nobody has used it for some time.
func (s *session) Retired() bool { return false }

func (s *session) newNonce() error {
	_, err := rand.Read(s.nonceCaller)
	return err
}

// authorization is one use of a session: the authorization of one entity for one command. It is a
// [tpm2.Session], so that commands which go-tpm writes and the one that we write are protected by
// the same arithmetic.
type authorization struct {
	*session
	value      []byte // authValue of the entity, without trailing zeros
	valueInMAC bool   // false in a policy session without TPM2_PolicyAuthValue
	attributes byte
}

var _ tpm2.Session = (*authorization)(nil)

// authorize begins a use. Encrypt tells which first parameters are sized buffers, which alone can
// be encrypted.
func (s *session) authorize(value []byte, encrypt byte) *authorization {
	return &authorization{session: s, value: value, valueInMAC: true, attributes: attrContinueSession | encrypt}
}

// commandMAC authenticates a command (TPM 2.0 Part 1, 16.7 and 19.6.5): cpHash = H(code ‖ Names ‖
// parameters). The Names are what keeps a handle from being exchanged.
func (a *authorization) commandMAC(code tpm2.TPMCC, parameters []byte, names ...[]byte) []byte {
	h := sha256.New()
	var word [4]byte
	binary.BigEndian.PutUint32(word[:], uint32(code))
	h.Write(word[:])
	for _, name := range names {
		h.Write(name)
	}
	h.Write(parameters)
	return a.mac(h.Sum(nil), a.nonceCaller, a.nonceTPM, a.attributes)
}

// responseMAC authenticates the response to a command that succeeded: rpHash = H(code of the
// response ‖ code ‖ parameters).
func (a *authorization) responseMAC(code tpm2.TPMCC, parameters []byte, attributes byte) []byte {
	h := sha256.New()
	var words [8]byte // the response code is TPM_RC_SUCCESS, 0
	binary.BigEndian.PutUint32(words[4:], uint32(code))
	h.Write(words[:])
	h.Write(parameters)
	return a.mac(h.Sum(nil), a.nonceTPM, a.nonceCaller, attributes)
}

func (a *authorization) mac(hash, newer, older []byte, attributes byte) []byte {
	key := a.key
	if a.valueInMAC && len(a.value) > 0 {
		key = append(append(make([]byte, 0, len(key)+len(a.value)), key...), a.value...)
	}
	m := hmac.New(sha256.New, key)
	m.Write(hash)
	m.Write(newer)
	m.Write(older)
	m.Write([]byte{attributes})
	return m.Sum(nil)
}

// accept checks the session area of a response, and rolls the nonce.
func (a *authorization) accept(code tpm2.TPMCC, parameters, nonce []byte, attributes byte, mac []byte) error {
	if len(nonce) != nonceBytes || attributes&attrContinueSession == 0 {
		return fmt.Errorf("%w: its session area is not that of the session", ErrTampered)
	}
	a.nonceTPM = append(make([]byte, 0, nonceBytes), nonce...)
	if subtle.ConstantTimeCompare(a.responseMAC(code, parameters, attributes), mac) != 1 {
		return fmt.Errorf("%w: its HMAC is wrong", ErrTampered)
	}
	a.pending = false
	return nil
}

// cfb en- or decrypts the first parameter in place (TPM 2.0 Part 1, 21.3). The sender's nonce is
// the newer one.
func (a *authorization) cfb(parameter, newer, older []byte, encrypt bool) error {
	secret := append(append(make([]byte, 0, len(a.key)+len(a.value)), a.key...), a.value...)
	k := tpm2.KDFa(crypto.SHA256, secret, "CFB", newer, older, 8*2*aes.BlockSize)
	block, err := aes.NewCipher(k[:aes.BlockSize])
	if err != nil {
		return err
	}
	xorCFB(block, k[aes.BlockSize:], parameter, encrypt)
	return nil
}

// xorCFB is cipher feedback mode with whole blocks (NIST SP 800-38A, 6.3). The standard library's
// is deprecated, because it does not authenticate; here the session's HMAC does.
func xorCFB(block cipher.Block, iv, data []byte, encrypt bool) {
	feedback := append(make([]byte, 0, aes.BlockSize), iv...)
	var pad [aes.BlockSize]byte
	for len(data) > 0 {
		block.Encrypt(pad[:], feedback)
		n := min(len(data), aes.BlockSize)
		if !encrypt {
			copy(feedback, data[:n])
		}
		subtle.XORBytes(data[:n], data[:n], pad[:n])
		if encrypt {
			copy(feedback, data[:n])
		}
		data = data[n:]
	}
}

// What follows is tpm2.Session. The session is started already and ended elsewhere.

// Init does nothing.
func (a *authorization) Init(transport.TPM) error { return nil }

// CleanupFailure does nothing.
func (a *authorization) CleanupFailure(transport.TPM) error { return nil }

// NonceTPM returns the newest nonce of the TPM.
func (a *authorization) NonceTPM() tpm2.TPM2BNonce { return tpm2.TPM2BNonce{Buffer: a.nonceTPM} }

// NewNonceCaller makes the nonce of the command to come.
func (a *authorization) NewNonceCaller() error { return a.newNonce() }

// Authorize returns the session area of a command.
func (a *authorization) Authorize(code tpm2.TPMCC, parameters, addNonces []byte, names []tpm2.TPM2BName, _ int) (*tpm2.TPMSAuthCommand, error) {
	if len(addNonces) != 0 {
		return nil, errors.New("a second session for encryption is not supported")
	}
	list := make([][]byte, len(names))
	for i, n := range names {
		list[i] = n.Buffer
	}
	return &tpm2.TPMSAuthCommand{
		Handle:        a.handle,
		Nonce:         tpm2.TPM2BNonce{Buffer: a.nonceCaller},
		Attributes:    sessionAttributes(a.attributes),
		Authorization: tpm2.TPM2BData{Buffer: a.commandMAC(code, parameters, list...)},
	}, nil
}

// Validate checks the session area of a response.
func (a *authorization) Validate(_ tpm2.TPMRC, code tpm2.TPMCC, parameters []byte, _ []tpm2.TPM2BName, _ int, auth *tpm2.TPMSAuthResponse) error {
	return a.accept(code, parameters, auth.Nonce.Buffer, tpm2.Marshal(auth.Attributes)[0], auth.Authorization.Buffer)
}

// IsEncryption reports whether the response's first parameter is encrypted.
func (a *authorization) IsEncryption() bool { return a.attributes&attrEncrypt != 0 }

// IsDecryption reports whether the command's first parameter is encrypted.
func (a *authorization) IsDecryption() bool { return a.attributes&attrDecrypt != 0 }

// Encrypt encrypts the command's first parameter.
func (a *authorization) Encrypt(parameter []byte) error {
	if !a.IsDecryption() {
		return nil
	}
	return a.cfb(parameter, a.nonceCaller, a.nonceTPM, true)
}

// Decrypt decrypts the response's first parameter.
func (a *authorization) Decrypt(parameter []byte) error {
	if !a.IsEncryption() {
		return nil
	}
	return a.cfb(parameter, a.nonceTPM, a.nonceCaller, false)
}

// Handle returns the session's handle.
func (a *authorization) Handle() tpm2.TPMHandle { return a.handle }

func sessionAttributes(bits byte) tpm2.TPMASession {
	return tpm2.TPMASession{
		ContinueSession: bits&attrContinueSession != 0,
		Decrypt:         bits&attrDecrypt != 0,
		Encrypt:         bits&attrEncrypt != 0,
	}
}

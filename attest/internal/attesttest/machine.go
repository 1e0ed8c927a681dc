package attesttest

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"maps"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

// Hierarchies of a TPM (TPM 2.0 Part 2, TPM_RH).
const (
	Owner       = 0x40000001
	Null        = 0x40000007
	Endorsement = 0x4000000B
)

// BindingKeyAttributes are fixedTPM, fixedParent, sensitiveDataOrigin, userWithAuth, noDA and sign.
const BindingKeyAttributes = 0x00040472

// Statement is a TPMS_ATTEST to be.
type Statement struct {
	Magic     uint32
	Type      uint16
	Signer    []byte
	ExtraData []byte
	Clock     uint64
	Reset     uint32
	Restart   uint32
	Safe      byte
	Firmware  uint64
	Body      []byte // what follows
}

// Bytes encodes the statement.
func (s Statement) Bytes() []byte {
	be := binary.BigEndian
	b := be.AppendUint32(nil, s.Magic)
	b = be.AppendUint16(b, s.Type)
	b = append(b, Sized(s.Signer)...)
	b = append(b, Sized(s.ExtraData)...)
	b = be.AppendUint64(b, s.Clock)
	b = be.AppendUint32(b, s.Reset)
	b = be.AppendUint32(b, s.Restart)
	b = append(b, s.Safe)
	b = be.AppendUint64(b, s.Firmware)
	return append(b, s.Body...)
}

// Sized prefixes b with its length in two bytes.
func Sized(b []byte) []byte {
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...)
}

// Name computes a SHA-256 Name over parts.
func Name(parts ...[]byte) []byte {
	h := sha256.New()
	for _, p := range parts {
		h.Write(p)
	}
	return h.Sum([]byte{0x00, 0x0B})
}

// Handle encodes a handle.
func Handle(h uint32) []byte { return binary.BigEndian.AppendUint32(nil, h) }

// Public encodes the TPMT_PUBLIC of an RSA key without scheme.
func Public(key *rsa.PublicKey, attributes uint32, policy []byte) []byte {
	be := binary.BigEndian
	b := []byte{0x00, 0x01, 0x00, 0x0B}
	b = be.AppendUint32(b, attributes)
	b = append(b, Sized(policy)...)
	b = append(b, 0x00, 0x10, 0x00, 0x10)
	b = be.AppendUint16(b, uint16(key.N.BitLen()))
	b = be.AppendUint32(b, 0)
	return append(b, Sized(key.N.Bytes())...)
}

// Machine is a Confidential VM whose TPM is software. Its function fields, if not nil, change one
// step of making evidence.
type Machine struct {
	AMD         *AMD
	CA          *CA
	AK          *rsa.PrivateKey
	Key         *rsa.PublicKey
	IDKeyDigest []byte
	PCRs        map[int][]byte // quoted; SetBoot fills them
	EventLog    []byte

	Claims     []byte
	KeyPublic  []byte
	ReportType uint32
	Hardware   []byte // instead of a signed SNP report
	TDX        *TDX   // the machine has Intel TDX instead of AMD SEV-SNP

	ChangeReport   func(raw []byte)       // before signing
	ChangeCertify  func(*Statement)       // before signing
	ChangeQuote    func(*Statement)       // before signing
	ChangeEvidence func(*attest.Evidence) // at the end
	ChangeAnchors  func(*attest.TrustAnchors)
}

// Keys are made once per test program: each takes a while.
type Keys struct {
	AK, Key, Other *rsa.PrivateKey
}

// NewKeys makes the three RSA keys of a test.
func NewKeys(t testing.TB) Keys {
	t.Helper()
	var k Keys
	for _, p := range []**rsa.PrivateKey{&k.AK, &k.Key, &k.Other} {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			t.Fatal(err)
		}
		*p = key
	}
	return k
}

// NewMachine makes a machine whose evidence verifies.
func NewMachine(t testing.TB, amd *AMD, ca *CA, keys Keys) *Machine {
	t.Helper()
	m := &Machine{
		AMD: amd, CA: ca, AK: keys.AK, Key: &keys.Key.PublicKey,
		IDKeyDigest: attest.AzureIDKeyDigests()[1],
		Claims:      Claims(&keys.AK.PublicKey),
		KeyPublic:   Public(&keys.Key.PublicKey, BindingKeyAttributes, nil),
		ReportType:  2,
	}
	m.SetBoot(bootlog.Boot(Booted()), FirmwarePCRs)
	return m
}

// How many registers, from 0, are quoted: those of firmware, or those of boot loaders and system as
// well.
const (
	FirmwarePCRs = 8
	AllPCRs      = 16
)

// Booted is how the machine was started.
func Booted() bootlog.Machine {
	return bootlog.Machine{SecureBoot: true, CommandLine: "/boot/vmlinuz-6.1 root=/dev/sda1 ro", DBX: bootlog.SignatureList("revoked")}
}

// SetBoot has the machine show a log, and quote the first registers as the log leaves them.
func (m *Machine) SetBoot(log *bootlog.Log, registers int) {
	m.EventLog = log.Bytes()
	m.PCRs = log.PCRs()
	maps.DeleteFunc(m.PCRs, func(index int, _ []byte) bool { return index >= registers })
}

// Anchors are what a verifier must trust for the machine's evidence to verify.
func (m *Machine) Anchors() attest.TrustAnchors {
	a := attest.TrustAnchors{AMD: []attest.AMDRoot{m.AMD.Root()}}
	if m.TDX != nil {
		a.Intel = []*x509.Certificate{m.TDX.Intel.Root()}
	}
	a.VTPM = append(a.VTPM, m.CA.Root)
	if m.ChangeAnchors != nil {
		m.ChangeAnchors(&a)
	}
	return a
}

func (m *Machine) akArea() []byte { return attest.AKPublicArea(m.AK.N.Bytes()) }

func (m *Machine) statement(typ uint16, extraData, body []byte) Statement {
	return Statement{
		Magic: 0xFF544347, Type: typ, Signer: Name(Handle(Endorsement), Name(m.akArea())), ExtraData: extraData,
		Clock: 1_000_000, Reset: 3, Restart: 1, Safe: 1, Firmware: 0x2020031200120003, Body: body,
	}
}

// Evidence makes the machine's answer to ch.
func (m *Machine) Evidence(t testing.TB, ch attest.Challenge) *attest.Evidence {
	t.Helper()
	keyName := Name(m.KeyPublic)
	certify := m.statement(0x8017, ch.CertifyData(), append(Sized(keyName), Sized(Name(Handle(Owner), keyName))...))
	quote := m.statement(0x8018, ch.QuoteData(keyName), m.selection())
	if m.ChangeCertify != nil {
		m.ChangeCertify(&certify)
	}
	if m.ChangeQuote != nil {
		m.ChangeQuote(&quote)
	}
	e := &attest.Evidence{
		Nonce: ch.Nonce, Audience: ch.Audience,
		AKCertificate: m.CA.Issue(t, &m.AK.PublicKey, nil), AKPublic: m.akArea(), KeyPublic: m.KeyPublic,
		Certify: certify.Bytes(), CertifySignature: m.Sign(t, certify.Bytes()),
		Quote: quote.Bytes(), QuoteSignature: m.Sign(t, quote.Bytes()), PCRs: m.PCRs,
		EventLog: m.EventLog,
	}
	m.addHardware(t, e)
	if m.ChangeEvidence != nil {
		m.ChangeEvidence(e)
	}
	return e
}

// addHardware adds the hardware report and what vouches for it.
func (m *Machine) addHardware(t testing.TB, e *attest.Evidence) {
	t.Helper()
	if x := m.TDX; x != nil {
		report := x.Report(ReportData(m.Claims))
		e.HCLReport = Wrap(4, report, m.Claims)
		e.TDQuote, e.TDXCollateral = x.Quote(t, report), x.Collateral(t)
		return
	}
	hardware := m.Hardware
	if hardware == nil {
		hardware = m.AMD.Report(t, ReportData(m.Claims), m.IDKeyDigest, m.ChangeReport)
	}
	e.HCLReport = Wrap(m.ReportType, hardware, m.Claims)
	e.VCEKChain = m.AMD.VCEKChain()
}

// Sign makes a TPMT_SIGNATURE by the AK.
func (m *Machine) Sign(t testing.TB, data []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(data)
	sig, err := rsa.SignPKCS1v15(nil, m.AK, crypto.SHA256, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return append([]byte{0x00, 0x14, 0x00, 0x0B, 0x01, 0x00}, sig...)
}

// selection encodes the quoted PCRs, of the bank whose values they are, and their digest.
func (m *Machine) selection() []byte {
	bitmap := make([]byte, 3)
	bank := uint16(bootlog.AlgSHA256)
	for i, value := range m.PCRs {
		bitmap[i/8] |= 1 << (i % 8)
		if len(value) == sha512.Size384 {
			bank = bootlog.AlgSHA384
		}
	}
	return Quoted(bank, bitmap, m.PCRs)
}

// Quoted encodes the attested part of a quote: one selection and the digest over the selected
// values.
func Quoted(bank uint16, bitmap []byte, values map[int][]byte) []byte {
	h := sha256.New()
	for i := range 24 {
		if i/8 < len(bitmap) && bitmap[i/8]&(1<<(i%8)) != 0 {
			h.Write(values[i])
		}
	}
	be := binary.BigEndian
	b := be.AppendUint32(nil, 1)
	b = be.AppendUint16(b, bank)
	b = append(b, byte(len(bitmap)))
	b = append(b, bitmap...)
	return append(b, Sized(h.Sum(nil))...)
}

// Certify makes the AK's statement about the key with the given TPMT_PUBLIC, a primary of
// hierarchy.
func (m *Machine) Certify(t testing.TB, public []byte, hierarchy uint32, extraData []byte) attest.Certified {
	t.Helper()
	name := Name(public)
	st := m.statement(0x8017, extraData, append(Sized(name), Sized(Name(Handle(hierarchy), name))...)).Bytes()
	return attest.Certified{Public: public, Attest: st, Signature: m.Sign(t, st), ExtraData: extraData}
}

package attesttest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"sync"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	sevtest "github.com/google/go-sev-guest/testing"

	"github.com/keyagent/keyagent/attest"
)

// Epoch is the time at which everything made here is valid.
func Epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// reportedTCB is the TCB of the reports and of the VCEK: boot loader 4, SNP firmware 0x18,
// microcode 0xdb.
const reportedTCB = 0xdb18000000000004

// turinTCB is reportedTCB for Turin: FMC 1, boot loader 4, TEE 2, SNP firmware 0x18, microcode
// 0x4d.
const turinTCB = 0x4d00000018020401

// CSP is the provider whose VLEK signs for the machines that have one.
const CSP = "Microsoft Azure"

// Processor is what differs between AMD's product lines.
type Processor struct {
	Line          string
	CPUID         [3]byte // family, model, stepping
	ReportVersion uint32
	TCB           uint64
	ChipID        []byte // 64 bytes, as in the report
	// VLEK: reports are signed by the provider's key, not by the chip's.
	VLEK bool
	// Extensions, if not nil, changes AMD's extensions of the certificate.
	Extensions func([]pkix.Extension) []pkix.Extension
	// Issuer is the line in whose name the chain is made, if not Line.
	Issuer string
	// FullSize gives ARK and ASK keys of 4096 bits, as AMD has them, and not of 2048, which takes
	// seconds.
	FullSize bool
}

// Milan, Genoa and Turin are processors of AMD's product lines.
func Milan() Processor {
	return Processor{Line: "Milan", CPUID: [3]byte{0x19, 0x01, 0x01}, ReportVersion: 3, TCB: reportedTCB, ChipID: chipID(abi.ChipIDSize)}
}

// Genoa is as Milan, with another CPU.
func Genoa() Processor {
	p := Milan()
	p.Line, p.CPUID = "Genoa", [3]byte{0x19, 0x11, 0x01}
	return p
}

// Turin has reports with mitigation vectors, a chip id of 8 bytes and a TCB with an FMC component.
func Turin() Processor {
	return Processor{Line: "Turin", CPUID: [3]byte{0x1A, 0x02, 0x01}, ReportVersion: 5, TCB: turinTCB, ChipID: chipID(8)}
}

// AMD is a processor with its chain: ARK, ASK and VCEK, or ARK, ASVK and VLEK.
type AMD struct {
	Processor
	signer *sevtest.AmdSigner
}

// NewAMD makes a Milan processor.
func NewAMD(t testing.TB) *AMD {
	t.Helper()
	return NewProcessor(t, Milan())
}

// NewProcessor makes a processor with a chain of its own.
func NewProcessor(t testing.TB, p Processor) *AMD {
	t.Helper()
	created := Epoch().AddDate(-1, 0, 0)
	issuer := p.Issuer
	if issuer == "" {
		issuer = p.Line
	}
	b := &sevtest.AmdSignerBuilder{
		Keys:             p.keys(t),
		ProductName:      issuer + "-B0",
		ArkCreationTime:  created,
		AskCreationTime:  created,
		AsvkCreationTime: created,
		VcekCreationTime: created,
		VlekCreationTime: created,
	}
	custom := &b.VcekCustom
	if p.VLEK {
		custom = &b.VlekCustom
	}
	custom.Extensions = p.extensions(t)
	return &AMD{Processor: p, signer: CertChain(t, b)}
}

// certifying guards the random source from which go-sev-guest makes all its chains, which is not
// safe for concurrent use.
var certifying = new(sync.Mutex)

// CertChain makes the chain that the builder describes. Unlike the builder, it is safe for
// concurrent use.
func CertChain(t testing.TB, b *sevtest.AmdSignerBuilder) *sevtest.AmdSigner {
	t.Helper()
	certifying.Lock()
	defer certifying.Unlock()
	signer, err := b.TestOnlyCertChain()
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func (p Processor) keys(t testing.TB) *sevtest.AmdKeys {
	t.Helper()
	keys := sevtest.DefaultAmdKeys()
	for _, key := range []**rsa.PrivateKey{&keys.Ark, &keys.Ask} {
		if !p.FullSize {
			break
		}
		made, err := rsa.GenerateKey(rand.Reader, 4096)
		if err != nil {
			t.Fatal(err)
		}
		*key = made
	}
	return keys
}

// extensions writes what AMD certifies about the key (AMD 57230), by hand: the library knows no
// Turin.
func (p Processor) extensions(t testing.TB) []pkix.Extension {
	t.Helper()
	const arc = 3704
	oid := func(tail ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, arc, 1}, tail...)
	}
	der := func(v any, params string) []byte {
		out, err := asn1.MarshalWithParams(v, params)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	version, order := 0, []int{1, 2, 4, 5, 6, 7, 3, 8} // which extension is about which byte
	name, chip := p.Line+"-B0", p.ChipID
	if p.Line == "Turin" {
		version, order, chip = 1, []int{9, 1, 2, 3, 5, 6, 7, 8}, p.ChipID[:8]
	}
	subject := pkix.Extension{Id: oid(4), Value: chip}
	if p.VLEK {
		name, subject = p.Line, pkix.Extension{Id: oid(5), Value: der(CSP, "ia5")}
	}
	list := []pkix.Extension{
		{Id: oid(1), Value: der(version, "")}, {Id: oid(2), Value: der(name, "ia5")}, subject,
	}
	for i, n := range order {
		list = append(list, pkix.Extension{Id: oid(3, n), Value: der(int(p.TCB>>(8*i)&0xff), "")})
	}
	if p.Extensions != nil {
		return p.Extensions(list)
	}
	return list
}

// chipID is the id of a chip in a report, of which so many bytes are used.
func chipID(size int) []byte {
	id := make([]byte, abi.ChipIDSize)
	for i := range size {
		id[i] = byte(i + 1)
	}
	return id
}

// Root is the trust anchor of this processor.
func (a *AMD) Root() attest.AMDRoot {
	return attest.AMDRoot{Product: a.Line, ARK: a.signer.Ark, ASK: a.signer.Ask, ASVK: a.signer.Asvk}
}

// VCEKChain is what a VM gets from its host: VCEK, ASK, ARK.
func (a *AMD) VCEKChain() [][]byte {
	if a.VLEK {
		return [][]byte{bytes.Clone(a.signer.Vlek.Raw), bytes.Clone(a.signer.Asvk.Raw), bytes.Clone(a.signer.Ark.Raw)}
	}
	return [][]byte{bytes.Clone(a.signer.Vcek.Raw), bytes.Clone(a.signer.Ask.Raw), bytes.Clone(a.signer.Ark.Raw)}
}

// Report makes a signed report over reportData, launched under idKeyDigest. change, if not nil,
// alters it before it is signed.
func (a *AMD) Report(t testing.TB, reportData, idKeyDigest []byte, change func(raw []byte)) []byte {
	t.Helper()
	raw := make([]byte, abi.ReportSize)
	le := binary.LittleEndian
	le.PutUint32(raw[0x00:], a.ReportVersion)
	le.PutUint32(raw[0x04:], 12)      // guest SVN
	le.PutUint64(raw[0x08:], 0x3001f) // policy: ABI 0.31, SMT
	le.PutUint32(raw[0x34:], 1)       // ECDSA P-384
	le.PutUint64(raw[0x38:], a.TCB)
	le.PutUint64(raw[0x40:], 0x25) // platform info
	copy(raw[0x50:0x90], reportData)
	for i := range raw[0x90:0xC0] {
		raw[0x90+i] = 0x4d // measurement
	}
	copy(raw[0xE0:0x110], idKeyDigest)
	le.PutUint64(raw[0x180:], a.TCB)
	if a.ReportVersion >= 3 {
		copy(raw[0x188:], a.CPUID[:])
	}
	copy(raw[0x1A0:], a.ChipID)
	le.PutUint64(raw[0x1E0:], a.TCB) // committed
	le.PutUint64(raw[0x1F0:], a.TCB) // launch
	if a.ReportVersion >= 5 {
		raw[0x1F8], raw[0x200] = 1, 3 // mitigations at launch, and now
	}
	key := a.signer.Keys.Vcek
	if a.VLEK {
		raw[0x48], key = 1<<2, a.signer.Keys.Vlek
	}
	if change != nil {
		change(raw)
	}
	digest := sha512.Sum384(abi.SignedComponent(raw))
	r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	if err := abi.SetSignature(r, s, raw); err != nil {
		t.Fatal(err)
	}
	return raw
}

// CRL makes a revocation list, valid for a month from the given time, that names one serial number.
func (a *AMD) CRL(t testing.TB, revoked *big.Int, from time.Time) *x509.RevocationList {
	t.Helper()
	return a.ChangedCRL(t, revoked, from, func(*x509.RevocationList) {})
}

// ChangedCRL is CRL with something else in the list.
func (a *AMD) ChangedCRL(t testing.TB, revoked *big.Int, from time.Time, change func(*x509.RevocationList)) *x509.RevocationList {
	t.Helper()
	list := &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: from, NextUpdate: from.AddDate(0, 1, 0),
		SignatureAlgorithm:        x509.SHA384WithRSAPSS,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked, RevocationTime: from}},
	}
	change(list)
	der, err := x509.CreateRevocationList(rand.Reader, list, a.signer.Ark, a.signer.Keys.Ark)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return crl
}

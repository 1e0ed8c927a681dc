package attesttest

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	sevtest "github.com/google/go-sev-guest/testing"

	"github.com/keyagent/keyagent/attest"
)

// Epoch is the time at which everything made here is valid.
func Epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

// reportedTCB is the TCB of the reports and of the VCEK: boot loader 4, SNP firmware 0x18,
// microcode 0xdb.
const reportedTCB = 0xdb18000000000004

// AMD is a processor with its chain: ARK, ASK, VCEK.
type AMD struct {
	signer *sevtest.AmdSigner
}

// NewAMD makes a Milan processor.
func NewAMD(t testing.TB) *AMD {
	t.Helper()
	created := Epoch().AddDate(-1, 0, 0)
	b := &sevtest.AmdSignerBuilder{
		Keys:             sevtest.DefaultAmdKeys(),
		ProductName:      "Milan-B0",
		ArkCreationTime:  created,
		AskCreationTime:  created,
		AsvkCreationTime: created,
		VcekCreationTime: created,
		VlekCreationTime: created,
		VcekCustom: sevtest.CertOverride{
			Extensions: sevtest.CustomExtensions(kds.DecomposeTCBVersion(reportedTCB), chipID(), "", "Milan-B0"),
		},
	}
	signer, err := b.TestOnlyCertChain()
	if err != nil {
		t.Fatal(err)
	}
	return &AMD{signer: signer}
}

func chipID() []byte {
	id := make([]byte, abi.ChipIDSize)
	for i := range id {
		id[i] = byte(i + 1)
	}
	return id
}

// Root is the trust anchor of this processor.
func (a *AMD) Root() attest.AMDRoot {
	return attest.AMDRoot{Product: "Milan", ARK: a.signer.Ark, ASK: a.signer.Ask}
}

// VCEKChain is what a VM gets from its host: VCEK, ASK, ARK.
func (a *AMD) VCEKChain() [][]byte {
	return [][]byte{bytes.Clone(a.signer.Vcek.Raw), bytes.Clone(a.signer.Ask.Raw), bytes.Clone(a.signer.Ark.Raw)}
}

// Report makes a signed report over reportData, launched under idKeyDigest. change, if not nil,
// alters it before it is signed.
func (a *AMD) Report(t testing.TB, reportData, idKeyDigest []byte, change func(raw []byte)) []byte {
	t.Helper()
	raw := make([]byte, abi.ReportSize)
	le := binary.LittleEndian
	le.PutUint32(raw[0x00:], 3)       // version
	le.PutUint32(raw[0x04:], 12)      // guest SVN
	le.PutUint64(raw[0x08:], 0x3001f) // policy: ABI 0.31, SMT
	le.PutUint32(raw[0x34:], 1)       // ECDSA P-384
	le.PutUint64(raw[0x38:], 0xdb18000000000004)
	le.PutUint64(raw[0x40:], 0x25) // platform info
	copy(raw[0x50:0x90], reportData)
	for i := range raw[0x90:0xC0] {
		raw[0x90+i] = 0x4d // measurement
	}
	copy(raw[0xE0:0x110], idKeyDigest)
	le.PutUint64(raw[0x180:], reportedTCB)
	copy(raw[0x188:], []byte{0x19, 0x01, 0x01}) // family, model, stepping: Milan
	copy(raw[0x1A0:], chipID())
	le.PutUint64(raw[0x1E0:], reportedTCB) // committed
	le.PutUint64(raw[0x1F0:], reportedTCB) // launch
	if change != nil {
		change(raw)
	}
	r, s, err := a.signer.Sign(abi.SignedComponent(raw))
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
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: from, NextUpdate: from.AddDate(0, 1, 0),
		SignatureAlgorithm:        x509.SHA384WithRSAPSS,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: revoked, RevocationTime: from}},
	}, a.signer.Ark, a.signer.Keys.Ark)
	if err != nil {
		t.Fatal(err)
	}
	crl, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return crl
}

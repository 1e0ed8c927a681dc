package tee_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/kds"
	sevtest "github.com/google/go-sev-guest/testing"

	"github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/tee"
)

const forgedTCB = 0xdb18000000000004

// forged is a chain that AMD did not make; change alters how.
func forged(t *testing.T, change func(*sevtest.AmdSignerBuilder)) (*x509.Certificate, tee.AMDRoot, *sevtest.AmdSigner) {
	t.Helper()
	created := at(2025)
	b := &sevtest.AmdSignerBuilder{
		Keys: sevtest.DefaultAmdKeys(), ProductName: "Milan-B0",
		ArkCreationTime: created, AskCreationTime: created, AsvkCreationTime: created, VcekCreationTime: created, VlekCreationTime: created,
	}
	b.VcekCustom.Extensions = hardwareID(chip(7))
	if change != nil {
		change(b)
	}
	s := attesttest.CertChain(t, b)
	return s.Vcek, tee.AMDRoot{Product: "Milan", ARK: s.Ark, ASK: s.Ask}, s
}

func chip(fill byte) []byte {
	id := make([]byte, abi.ChipIDSize)
	for i := range id {
		id[i] = fill
	}
	return id
}

func extensionsFor(tcb kds.TCBVersion, id []byte) func(*sevtest.AmdSignerBuilder) {
	return func(b *sevtest.AmdSignerBuilder) {
		b.VcekCustom.Extensions = sevtest.CustomExtensions(kds.DecomposeTCBVersion(tcb), id, "", "Milan-B0")
	}
}

func reportOf(t *testing.T, id []byte) *tee.SNPReport {
	t.Helper()
	raw := make([]byte, tee.SNPReportSize)
	binary.LittleEndian.PutUint32(raw, 2)
	binary.LittleEndian.PutUint64(raw[8:], 0x3001f)
	binary.LittleEndian.PutUint32(raw[0x34:], 1)
	binary.LittleEndian.PutUint64(raw[0x180:], forgedTCB)
	copy(raw[0x1A0:], id)
	report, err := tee.ParseSNPReport(raw)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

func TestForgedChains(t *testing.T) {
	tests := []struct {
		name   string
		change func(*sevtest.AmdSignerBuilder)
		ok     bool
	}{
		{"made as AMD makes it", nil, true},
		{"a VCEK on another curve", func(b *sevtest.AmdSignerBuilder) {
			key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			keys := *b.Keys
			keys.Vcek = key
			b.Keys = &keys
		}, false},
		{"a VCEK signed otherwise", func(b *sevtest.AmdSignerBuilder) { b.VcekCustom.SignatureAlgorithm = x509.SHA256WithRSA }, false},
		{"an ASK signed otherwise", func(b *sevtest.AmdSignerBuilder) { b.AskCustom.SignatureAlgorithm = x509.SHA384WithRSA }, false},
		{"a VCEK without AMD's extensions", func(b *sevtest.AmdSignerBuilder) { b.VcekCustom.Extensions = hardwareID(nil)[:1] }, false},
		{"a VLEK in its place", func(b *sevtest.AmdSignerBuilder) {
			b.VcekCustom.Extensions = sevtest.CustomExtensions(kds.DecomposeTCBVersion(forgedTCB), nil, "csp", "Milan-B0")
		}, false},
	}
	for _, tt := range tests {
		vcek, root, _ := forged(t, tt.change)
		if _, err := tee.VerifySigner(vcek, []tee.AMDRoot{root}, at(2026)); (err == nil) != tt.ok {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// hardwareID makes the extensions of the ordinary VCEK of a chip.
func hardwareID(id []byte) []pkix.Extension {
	return sevtest.CustomExtensions(kds.DecomposeTCBVersion(forgedTCB), id, "", "Milan-B0")
}

func TestAMaskedChipIsNoChip(t *testing.T) {
	vcek, root, _ := forged(t, extensionsFor(forgedTCB, chip(0)))
	if err := tee.CheckIdentity(reportOf(t, chip(0)), vcek, &root); err == nil {
		t.Error("a VCEK of chip 0 vouches for a masked chip id")
	}
}

func TestIdentityIsChipAndFirmwareLevel(t *testing.T) {
	for name, tt := range map[string]struct {
		tcb  kds.TCBVersion
		chip []byte
		ok   bool
	}{
		"the right chip and level": {forgedTCB, chip(7), true},
		"another chip":             {forgedTCB, chip(8), false},
		"a newer level":            {forgedTCB + 1, chip(7), false},
		"an older level":           {forgedTCB - 1, chip(7), false},
	} {
		vcek, root, _ := forged(t, extensionsFor(tt.tcb, tt.chip))
		if err := tee.CheckIdentity(reportOf(t, chip(7)), vcek, &root); (err == nil) != tt.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestARevokedVCEKWithASerialNumberIsRefused(t *testing.T) {
	vcek, root, signer := forged(t, func(b *sevtest.AmdSignerBuilder) { b.VcekCustom.SerialNumber = big.NewInt(5) })
	for serial, ok := range map[int64]bool{5: false, 6: true} {
		root.CRL = crl(t, signer, serial)
		if err := tee.CheckRevocation(vcek, &root, at(2026)); (err == nil) != ok {
			t.Errorf("list names %d: %v", serial, err)
		}
	}
}

func crl(t *testing.T, s *sevtest.AmdSigner, serial int64) *x509.RevocationList {
	t.Helper()
	der, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: at(2026).Add(-time.Hour), NextUpdate: at(2026).Add(time.Hour), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(serial), RevocationTime: at(2025)}},
	}, s.Ark, s.Keys.Ark)
	if err != nil {
		t.Fatal(err)
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestAReportHasOneSize(t *testing.T) {
	t.Parallel()
	good := realReports(t)["snp-milan-2023"]
	for _, b := range [][]byte{nil, good[:1183], append(good[:1184:1184], 0), append(good[:1184:1184], good...)} {
		if _, err := tee.ParseSNPReport(b); err == nil {
			t.Errorf("%d bytes are accepted", len(b))
		}
	}
}

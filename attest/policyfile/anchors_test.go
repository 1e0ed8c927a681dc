package policyfile_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/policyfile"
)

// genoa is AMD's pair for Genoa, which is built in.
func genoa(t *testing.T) []byte {
	t.Helper()
	for _, root := range attest.DefaultTrustAnchors().AMD {
		if root.Product == "Genoa" {
			return pair(root)
		}
	}
	t.Fatal("no built-in root for Genoa")
	return nil
}

func pair(root attest.AMDRoot) []byte {
	return append(certificate("CERTIFICATE", root.ASK.Raw), certificate("CERTIFICATE", root.ARK.Raw)...)
}

func certificate(label string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: label, Bytes: der})
}

// A directory with a policy and the files that it names.
func directory(t *testing.T, policy string, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	files["policy.yaml"] = []byte(policy)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "policy.yaml")
}

func TestAnchorsReplaceThoseOfTheirKind(t *testing.T) {
	t.Parallel()
	amd, ca := at.NewAMD(t), at.NewCA(t)
	list := amd.CRL(t, big.NewInt(99), at.Epoch())
	path := directory(t, "anchors: {amd_revocation_lists: amd.crl, amd: [amd.pem], vtpm_roots: [ca.pem]}", map[string][]byte{
		"amd.pem": pair(amd.Root()), "ca.pem": certificate("CERTIFICATE", ca.Root.Raw), "amd.crl": list.Raw,
	})
	p, err := policyfile.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, builtIn := p.Anchors, attest.DefaultTrustAnchors()
	if len(a.AMD) != 1 || !a.AMD[0].ARK.Equal(amd.Root().ARK) || a.AMD[0].CRL == nil || !p.Rules.RequireRevocationList {
		t.Errorf("AMD: %+v", a.AMD)
	}
	if len(a.VTPM) != 1 || !a.VTPM[0].Equal(ca.Root) || len(a.VTPMIntermediates) != len(builtIn.VTPMIntermediates) {
		t.Errorf("%d vTPM roots, %d intermediates", len(a.VTPM), len(a.VTPMIntermediates))
	}
	if n := p.Origin.Named; len(n) != 3 || n[0].SHA256 == "" {
		t.Errorf("named: %+v", n)
	}
}

func TestAnchorsThatCannotBeUsedAreRefused(t *testing.T) {
	t.Parallel()
	amd, ca := at.NewAMD(t), at.NewCA(t)
	list := amd.CRL(t, big.NewInt(99), at.Epoch()).Raw
	delta := amd.ChangedCRL(t, big.NewInt(99), at.Epoch(), func(l *x509.RevocationList) {
		l.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}
	}).Raw
	files := map[string][]byte{
		"delta.crl": delta,
		"amd.pem":   pair(amd.Root()), "ca.pem": certificate("CERTIFICATE", ca.Root.Raw), "empty.pem": {},
		"amd.crl": list, "amd-crl.pem": certificate("X509 CRL", list),
		"leaf.pem": certificate("CERTIFICATE", amd.VCEKChain()[0]),
	}
	for text, want := range map[string]string{
		"amd: []":                                         "empty list",
		"amd: [empty.pem]":                                "empty.pem",
		"amd: [ca.pem]":                                   "neither an ARK nor an ASK",
		"vtpm_roots: [leaf.pem]":                          "leaf.pem",
		"vtpm_roots: [gone.pem]":                          "no such file",
		"vtpm_roots: [.]":                                 "directory",
		"amd_revocation_lists: [amd.crl]":                 "signed by no AMD root",
		"amd_revocation_lists: [ca.pem]":                  "not one revocation list",
		"amd_revocation_lists: [leaf.pem]":                "not one revocation list",
		"amd_revocation_lists: [policy.yaml]":             "x509",
		"amd: amd.pem\n  amd_revocation_lists: delta.crl": "critical extension",
		"amd: amd.pem\n  amd_revocation_lists: [amd.crl, amd-crl.pem]": "a second list",
	} {
		path := directory(t, "anchors:\n  "+text, files)
		_, err := policyfile.Load(path)
		var fault *policyfile.Error
		if !errors.As(err, &fault) || fault.Problems[0].Line < 2 || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want one with %q", text, err, want)
		}
	}
}

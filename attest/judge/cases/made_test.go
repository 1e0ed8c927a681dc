package cases_test

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/judge/cases"
)

// made is a case of a made machine, and what must come out.
type made struct {
	amd      *at.AMD
	change   func(*at.Machine)
	drop     []string // parts that are not given
	platform string   // if not that of a machine with AMD SEV-SNP
	policy   map[string]any
	expect   string
	check    string // that fails
}

// stage is where made machines are written to files.
type stage struct {
	dir  string
	ca   *at.CA
	keys at.Keys
}

const nonce = "a nonce of another protocol"

// write makes the machine's evidence, puts its parts into a directory and returns the case.
func (s *stage) write(t *testing.T, id string, m made) map[string]any {
	t.Helper()
	machine := at.NewMachine(t, m.amd, s.ca, s.keys)
	raw := func(st *at.Statement) { st.ExtraData = []byte(nonce) }
	machine.ChangeQuote, machine.ChangeCertify = raw, raw
	if m.change != nil {
		m.change(machine)
	}
	e := machine.Evidence(t, attest.Challenge{Nonce: make([]byte, 16), Audience: "x"})
	pcrs := map[string]string{}
	for i, value := range e.PCRs {
		pcrs[fmt.Sprint(i)] = hex.EncodeToString(value)
	}
	pcrFile, err := json.Marshal(map[string]any{"bank": "sha256", "pcrs": pcrs})
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{
		"hcl-report": e.HCLReport, "vcek-chain": encodePEM(e.VCEKChain...), "ak-cert-nv": append(e.AKCertificate, make([]byte, 99)...),
		"quote": e.Quote, "quote-tpmt-signature": e.QuoteSignature, "pcrs": pcrFile,
		"ak-public-2b": at.Sized(e.AKPublic), "binding-public": e.KeyPublic, "certify": e.Certify, "certify-signature": e.CertifySignature,
	}
	parts := map[string]any{}
	for part, data := range files {
		if slices.Contains(m.drop, part) {
			continue
		}
		name := fmt.Sprintf("%x-%s", id, part)
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
		parts[part] = name
	}
	c := map[string]any{
		"id": id, "platform": "azure-sev-snp", "parts": parts, "nonce_hex": hex.EncodeToString([]byte(nonce)),
		"time": at.Epoch(), "expect": m.expect,
	}
	if m.platform != "" {
		c["platform"] = m.platform
	}
	if m.check != "" {
		c["failing_check"] = m.check
	}
	if m.policy != nil {
		c["policy"] = m.policy
	}
	return c
}

func encodePEM(list ...[]byte) []byte {
	var out []byte
	for _, der := range list {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

func TestMadeMachinesUnderAddedTrust(t *testing.T) {
	t.Parallel()
	s := &stage{dir: t.TempDir(), ca: at.NewCA(t), keys: at.NewKeys(t)}
	vlek := at.Turin()
	vlek.VLEK = true
	turin, genoa, provider := at.NewProcessor(t, at.Turin()), at.NewProcessor(t, at.Genoa()), at.NewProcessor(t, vlek)
	report := func(offset int, value byte) func(*at.Machine) {
		return func(m *at.Machine) { m.ChangeReport = func(raw []byte) { raw[offset] = value } }
	}
	noKey := []string{"binding-public", "certify", "certify-signature"}
	tpmOnly := []string{"hcl-report", "vcek-chain"}
	all := map[string]made{
		"Turin":                            {amd: turin, expect: "verified"},
		"Turin without a binding key":      {amd: turin, drop: noKey, expect: "verified"},
		"Turin without an AK certificate":  {amd: turin, drop: []string{"ak-cert-nv"}, expect: "verified"},
		"Turin and its lowest TCB":         {amd: turin, policy: map[string]any{"min_tcb": "4d00000018020401"}, expect: "verified"},
		"Turin below the TCB":              {amd: turin, policy: map[string]any{"min_tcb": "0x4d00000018020402"}, expect: "rejected", check: "snp.tcb"},
		"Turin under the built-in roots":   {amd: turin, policy: map[string]any{"amd_roots": "built-in"}, expect: "rejected", check: "snp.chain"},
		"Genoa, whose roots are not added": {amd: genoa, expect: "rejected", check: "snp.chain"},
		"a provider's key":                 {amd: provider, expect: "rejected", check: "snp.structure"},
		"without the chip's certificate":   {amd: turin, drop: []string{"vcek-chain"}, expect: "partial"},
		"without a quote":                  {amd: turin, drop: []string{"quote", "quote-tpmt-signature", "pcrs"}, expect: "partial"},
		"without the key's certify":        {amd: turin, drop: []string{"certify", "certify-signature"}, expect: "partial"},
		"without the quote's signature":    {amd: turin, drop: []string{"quote-tpmt-signature"}, expect: "rejected", check: "quote.signature"},
		"without the quote's values":       {amd: turin, drop: []string{"pcrs"}, expect: "partial"},
		"a virtual TPM alone":              {amd: turin, drop: tpmOnly, expect: "partial"},
		"a virtual TPM where it is named":  {amd: turin, drop: tpmOnly, platform: "tpm-only", expect: "verified"},
		"the same, but not of a TEE":       {amd: turin, drop: tpmOnly, platform: "tpm-only", expect: "partial"},
		"a TPM that nothing vouches for":   {amd: turin, drop: append(tpmOnly, "ak-cert-nv"), platform: "tpm-only", expect: "partial"},
		"debugging allowed":                {amd: turin, change: report(0x0A, 0x0b), expect: "rejected", check: "snp.policy"},
		"another chip":                     {amd: turin, change: report(0x1A0, 9), expect: "rejected", check: "snp.identity"},
		"an unknown version":               {amd: turin, change: report(0, 6), expect: "rejected", check: "snp.structure"},
		"secure boot off": {
			amd: turin, policy: map[string]any{"require_secure_boot": true}, expect: "rejected", check: "policy.secure-boot",
			change: func(m *at.Machine) {
				m.Claims = bytes.Replace(m.Claims, []byte(`"secure-boot":true`), []byte(`"secure-boot":false`), 1)
			},
		},
		"another nonce in the certify": {amd: turin, change: func(m *at.Machine) {
			m.ChangeCertify = func(st *at.Statement) { st.ExtraData = []byte("other") }
		}, expect: "rejected", check: "key.certify.nonce"},
		"an exportable key": {amd: turin, change: func(m *at.Machine) {
			m.KeyPublic = at.Public(m.Key, at.BindingKeyAttributes&^(1<<1), nil)
		}, expect: "rejected", check: "key.public"},
		"a certificate of another CA": {amd: turin, change: func(m *at.Machine) { m.CA = at.NewCA(t) }, expect: "rejected", check: "ak.certificate"},
	}
	var list []any
	for id, m := range all {
		list = append(list, s.write(t, id, m))
	}
	chain := turin.VCEKChain()
	for name, data := range map[string][]byte{
		"ark.pem": encodePEM(chain[2]), "ask.der": chain[1], "both.pem": encodePEM(chain[1], chain[2]), "vtpm.pem": encodePEM(s.ca.Root.Raw),
	} {
		if err := os.WriteFile(filepath.Join(s.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, trust := range []map[string]any{
		{"amd_ark": "ark.pem", "amd_ask": "ask.der", "vtpm_root": "vtpm.pem"},
		{"amd_ark": []string{"both.pem"}, "amd_ask": []string{"ask.der", "both.pem"}, "vtpm_root": string(encodePEM(s.ca.Root.Raw))},
	} {
		data, err := json.Marshal(map[string]any{"format": cases.Format, "cases": list, "trust": trust})
		if err != nil {
			t.Fatal(err)
		}
		name := filepath.Join(s.dir, "cases.json")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := cases.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range f.Judge().Cases {
			for _, problem := range o.Problems {
				t.Errorf("%s: %s", o.ID, problem)
			}
		}
	}
}

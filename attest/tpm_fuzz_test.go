package attest_test

import (
	"bytes"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// The TPM's structures are parsed by hand, strictly. go-tpm, which is lenient, is the reference:
// what we accept it must accept too, and write again to the same bytes.

// FuzzStatement reads TPMS_ATTEST.
func FuzzStatement(f *testing.F) {
	x := newTrial(f)
	e := x.Evidence(f, x.challenge)
	f.Add(e.Certify)
	f.Add(e.Quote)
	for _, name := range []string{"tpm2-certify-2024/certify.msg", "snp-milan-2023/quote.msg", "snp-milan-2026/quote.msg", "quote-orphan/quote.msg"} {
		f.Add(readVector(f, name))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if attest.ParseCertify(b) != nil && attest.ParseQuote(b) != nil {
			return
		}
		st, err := tpm2.Unmarshal[tpm2.TPMSAttest](b)
		if err != nil {
			t.Fatalf("accepted what go-tpm refuses: %v\n%x", err, b)
		}
		if again := tpm2.Marshal(st); !bytes.Equal(again, b) {
			t.Errorf("accepted\n%x\nwhich is also\n%x", b, again)
		}
	})
}

// FuzzPublic reads TPMT_PUBLIC.
func FuzzPublic(f *testing.F) {
	w := sharedWorld(f)
	f.Add(at.Public(&w.keys.Key.PublicKey, at.BindingKeyAttributes, nil))
	f.Add(at.Public(&w.keys.Key.PublicKey, at.BindingKeyAttributes, make([]byte, 32)))
	f.Add(attest.AKPublicArea(w.keys.AK.N.Bytes()))
	f.Add(readVector(f, "tpm2-certify-2024/ak.tpm2b-public")[2:])
	f.Add(readVector(f, "tpm2-certify-2024/certified-key.tpm2b-public")[2:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if attest.ParsePublicArea(b) != nil {
			return
		}
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](b)
		if err != nil {
			t.Fatalf("accepted what go-tpm refuses: %v\n%x", err, b)
		}
		if again := tpm2.Marshal(area); !bytes.Equal(again, b) {
			t.Errorf("accepted\n%x\nwhich is also\n%x", b, again)
		}
		name, err := attest.KeyName(b)
		if err != nil {
			t.Fatal(err)
		}
		if want, err := tpm2.ObjectName(area); err != nil || !bytes.Equal(name, want.Buffer) {
			t.Errorf("Name %x, go-tpm says %v (%v)", name, want, err)
		}
	})
}

// FuzzAKCertificate: trimming keeps the certificate and drops zeros only.
func FuzzAKCertificate(f *testing.F) {
	f.Add(readVector(f, "trusted-launch-2026/ak-cert.nv.bin"))
	f.Add(append(readVector(f, "tpm2-certify-2024/ak-cert.der"), make([]byte, 100)...))
	f.Add(make([]byte, 64))
	f.Fuzz(func(t *testing.T, nv []byte) {
		der, err := attest.TrimCertificate(nv)
		if err != nil {
			return
		}
		if !bytes.HasPrefix(nv, der) || len(bytes.Trim(nv[len(der):], "\x00")) != 0 {
			t.Errorf("%x is cut to %x", nv, der)
		}
	})
}

// FuzzVerify: nothing that comes in a bundle makes the verifier fall over, and no changed bundle is
// verified by accident of its parts missing.
func FuzzVerify(f *testing.F) {
	data, _ := bundle(f)
	f.Add(data)
	f.Add([]byte(`{"format":"keyagent-evidence/1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := attest.Parse(data)
		if err != nil {
			return
		}
		x := newTrial(t)
		r := attest.Verify(e, x.challenge, attest.TrustAnchors{}, attest.Policy{}, x.now)
		if r.Err() == nil {
			t.Error("verified without any trust anchor")
		}
		if len(r.Checks) != len(attest.CheckNames()) {
			t.Errorf("%d checks were made", len(r.Checks))
		}
	})
}

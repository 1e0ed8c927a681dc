package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/tee"
)

// BenchmarkVerifyTDX is [BenchmarkVerifySNP] for real evidence of 2026, complete with collateral
// and AK certificate: nine signatures on P-256 for TD quote, quoting enclave, PCK chain, statements
// and lists, and four with RSA for AK certificate, its chain and the TPM quote.
func BenchmarkVerifyTDX(b *testing.B) {
	v := vectorNamed(b, "tdx-2026")
	p, anchors := v.policy(), attest.DefaultTrustAnchors()
	expected := attest.Expected{Quote: unhex(b, v.NonceHex), AllowShort: true}
	evidence := v.evidence(b)
	bundle, err := evidence.Encode()
	if err != nil {
		b.Fatal(err)
	}
	ours := func() {
		e, err := attest.Parse(bundle)
		if err == nil {
			err = attest.VerifyExpected(e, expected, anchors, p, v.Time).Err()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	checks := bareTDX(b, evidence)
	reference := func() {
		for _, check := range checks {
			if !check() {
				b.Fatal("a signature does not verify")
			}
		}
	}
	var mine, theirs []time.Duration
	turns := []func(){
		func() { mine = append(mine, timed(ours)) },
		func() { theirs = append(theirs, timed(reference)) },
	}
	for i := 0; b.Loop(); i++ {
		turns[i%2]()
		turns[1-i%2]()
	}
	b.ReportMetric(float64(median(mine)), "ours-ns")
	b.ReportMetric(float64(median(theirs)), "reference-ns")
}

// bareTDX are the signature checks, over what is already parsed: key, message, signature.
func bareTDX(t testing.TB, e *attest.Evidence) []func() bool {
	t.Helper()
	c := e.TDXCollateral
	q, err := tee.ParseTDQuote(e.TDQuote)
	if err != nil {
		t.Fatal(err)
	}
	var checks []func() bool
	raw := func(key *ecdsa.PublicKey, message, signature []byte) {
		checks = append(checks, func() bool {
			sum := sha256.Sum256(message)
			return ecdsa.Verify(key, sum[:], new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:]))
		})
	}
	signed := func(parent *x509.Certificate, algorithm x509.SignatureAlgorithm, tbs, signature []byte) {
		checks = append(checks, func() bool { return parent.CheckSignature(algorithm, tbs, signature) == nil })
	}
	chain := func(text []byte) []*x509.Certificate {
		parsed, err := tee.ParseChain(text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	issued := func(certs ...*x509.Certificate) {
		for i := range len(certs) - 1 {
			signed(certs[i+1], certs[i].SignatureAlgorithm, certs[i].RawTBSCertificate, certs[i].Signature)
		}
	}
	pck, signing := chain(q.PCKChain), chain(c.TCBInfoChain)
	issued(pck...)
	issued(signing...)
	intel := signing[0].PublicKey.(*ecdsa.PublicKey)
	raw(intel, c.TCBInfo, c.TCBInfoSignature)
	raw(intel, c.QEIdentity, c.QEIdentitySignature)
	for der, by := range map[*[]byte]*x509.Certificate{&c.PCKCRL: pck[1], &c.RootCACRL: pck[2]} {
		list, err := x509.ParseRevocationList(*der)
		if err != nil {
			t.Fatal(err)
		}
		signed(by, list.SignatureAlgorithm, list.RawTBSRevocationList, list.Signature)
	}
	raw(pck[0].PublicKey.(*ecdsa.PublicKey), e.TDQuote[770:770+384], e.TDQuote[770+384:770+448])
	key, err := ecdsa.ParseUncompressedPublicKey(intel.Curve, append([]byte{4}, e.TDQuote[700:764]...))
	if err != nil {
		t.Fatal(err)
	}
	raw(key, e.TDQuote[:632], e.TDQuote[636:700])
	ak, err := attest.ParseAKCertificate(e.AKCertificate)
	if err != nil {
		t.Fatal(err)
	}
	certs := []*x509.Certificate{ak}
	for _, der := range e.AKIntermediates {
		ca, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, ca)
	}
	issued(append(certs, attest.DefaultTrustAnchors().VTPM[0])...)
	checks = append(checks, func() bool {
		sum := sha256.Sum256(e.Quote)
		return rsa.VerifyPKCS1v15(ak.PublicKey.(*rsa.PublicKey), crypto.SHA256, sum[:], e.QuoteSignature) == nil
	})
	return checks
}

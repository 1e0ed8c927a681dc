package attest_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"math/big"
	"slices"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
)

// BenchmarkVerifySNP compares a whole bundle, from its bytes to the verdict, with its bare
// signatures and hashes: each verified once, with keys that were parsed before, and nothing else
// looked at.
func BenchmarkVerifySNP(b *testing.B) {
	x := newTrial(b)
	milan := at.Milan()
	milan.FullSize = true
	x.w.amd = at.NewProcessor(b, milan)
	x.Machine = at.NewMachine(b, x.w.amd, x.w.ca, x.w.keys)
	x.key = &x.w.keys.Key.PublicKey
	bundle, err := x.Evidence(b, x.challenge).Encode()
	if err != nil {
		b.Fatal(err)
	}
	anchors := x.Anchors()
	ours := func() {
		e, err := attest.Parse(bundle)
		if err == nil {
			err = attest.VerifyForKey(e, x.challenge, x.key, anchors, x.policy, x.now).Err()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	bare := bareChecks(b, x, bundle)
	reference := func() {
		if !bare() {
			b.Fatal("a signature does not verify")
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

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// bareChecks returns what verifies the six signatures of a bundle and computes its hashes.
func bareChecks(b *testing.B, x *trial, bundle []byte) func() bool {
	b.Helper()
	e, err := attest.Parse(bundle)
	if err != nil {
		b.Fatal(err)
	}
	report, err := e.HardwareReport()
	if err != nil {
		b.Fatal(err)
	}
	ak, err := attest.ParseAK(e.AKPublic)
	if err != nil {
		b.Fatal(err)
	}
	vcek, akCertificate := certificate(b, e.VCEKChain[0]), certificate(b, e.AKCertificate)
	anchors := x.Anchors()
	ask, ark, akRoot := anchors.AMD[0].ASK, anchors.AMD[0].ARK, anchors.VTPM[0]
	r, s := littleEndian(report.Hardware[0x2A0:0x2A0+72]), littleEndian(report.Hardware[0x2E8:0x2E8+72])
	return func() bool {
		sha256.Sum256(report.Claims)
		sha256.Sum256(e.KeyPublic)
		sha256.Sum256(e.AKPublic)
		pcrs := sha256.New()
		for i := range 8 {
			pcrs.Write(e.PCRs[i])
		}
		pcrs.Sum(nil)
		signed := sha512.Sum384(report.Hardware[:0x2A0])
		return signedByAK(ak.Public, e.Certify, e.CertifySignature) && signedByAK(ak.Public, e.Quote, e.QuoteSignature) &&
			ecdsa.Verify(vcek.PublicKey.(*ecdsa.PublicKey), signed[:], r, s) &&
			signedByPSS(ask, vcek) && signedByPSS(ark, ask) &&
			signedByECDSA(akRoot, akCertificate)
	}
}

func certificate(b *testing.B, der []byte) *x509.Certificate {
	b.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		b.Fatal(err)
	}
	return c
}

func littleEndian(b []byte) *big.Int {
	b = slices.Clone(b)
	slices.Reverse(b)
	return new(big.Int).SetBytes(b)
}

func signedByAK(ak *rsa.PublicKey, statement, signature []byte) bool {
	sum := sha256.Sum256(statement)
	return rsa.VerifyPKCS1v15(ak, crypto.SHA256, sum[:], signature[len(signature)-256:]) == nil
}

func signedByPSS(issuer, c *x509.Certificate) bool {
	sum := sha512.Sum384(c.RawTBSCertificate)
	return rsa.VerifyPSS(issuer.PublicKey.(*rsa.PublicKey), crypto.SHA384, sum[:], c.Signature, nil) == nil
}

func signedByECDSA(issuer, c *x509.Certificate) bool {
	sum := sha256.Sum256(c.RawTBSCertificate)
	return ecdsa.VerifyASN1(issuer.PublicKey.(*ecdsa.PublicKey), sum[:], c.Signature)
}

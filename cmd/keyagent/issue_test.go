package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// issueAged has an authority of its own issue a certificate for a request, as one that was issued
// 360 days ago and is good for DAYS days from now, or has expired so many days ago. The application
// trusts it by subject and issuer.
func issueAged(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 5 {
		ts.Fatalf("usage: issue DIR APP REQUEST DAYS FILE")
	}
	block, _ := pem.Decode([]byte(ts.ReadFile(args[2])))
	if block == nil {
		ts.Fatalf("%s is not PEM", args[2])
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	ts.Check(err)
	days, err := strconv.Atoi(args[3])
	ts.Check(err)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	const day = 24 * time.Hour
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Contoso"}, CommonName: "Contoso Issuing CA"},
		NotBefore: now.Add(-1000 * day), NotAfter: now.Add(1000 * day),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), RawSubject: request.RawSubject,
		NotBefore: now.Add(-360 * day), NotAfter: now.Add(time.Duration(days)*day + time.Hour),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	certificate := func(template *x509.Certificate, public any) string {
		der, err := x509.CreateCertificate(rand.Reader, template, authority, public, key)
		ts.Check(err)
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	issuer := certificate(authority, key.Public())
	ts.Check(os.WriteFile(ts.MkAbs(args[4]), []byte(certificate(leaf, request.PublicKey)+issuer), 0o600))
	ts.Check(os.Chmod(ts.MkAbs(args[4]), 0o644)) // a certificate is public, and the agent may be another user
	control(ts, http.MethodPost, platformInfo(ts, args[0]).Control+"/applications/"+args[1]+"/trusted?subject="+request.Subject.CommonName, issuer)
}

package certreq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/keyagent/keyagent/signer/certreq"
)

func ExampleParseSubject() {
	for _, text := range []string{`CN=app,O="Contoso, Inc.",C=DE`, "/C=DE/O=Contoso/CN=app"} {
		subject, err := certreq.ParseSubject(text)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(subject)
	}
	_, err := certreq.ParseSubject("CN=app,C=Germany")
	fmt.Println(err)
	// Output:
	// CN=app,O=Contoso\, Inc.,C=DE
	// CN=app,O=Contoso,C=DE
	// subject "CN=app,C=Germany": C "Germany" has 7 characters, it must have 2
}

func ExampleNewCertificateRequest() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader) // any crypto.Signer, such as a signer.Key
	if err != nil {
		fmt.Println(err)
		return
	}
	subject, err := certreq.ParseSubject("CN=app,O=Contoso")
	if err != nil {
		fmt.Println(err)
		return
	}
	name, err := certreq.ParseSubjectAltName("URI:api://app")
	if err != nil {
		fmt.Println(err)
		return
	}
	der, err := certreq.NewCertificateRequest(key, certreq.RequestOptions{
		Names: certreq.Names{Subject: subject, AltNames: []certreq.SubjectAltName{name}},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(request.Subject, request.URIs, request.SignatureAlgorithm)
	// Output: CN=app,O=Contoso [api://app] ECDSA-SHA256
}

// A certificate that has expired is refused, with the reason.
func ExampleCheckCertificate() {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		fmt.Println(err)
		return
	}
	subject, err := certreq.ParseSubject("CN=app")
	if err != nil {
		fmt.Println(err)
		return
	}
	made := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	der, err := certreq.SelfSign(key, certreq.SelfSignOptions{
		Names: certreq.Names{Subject: subject}, Now: func() time.Time { return made },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	chain, err := certreq.ParseCertificates(der)
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, now := range []time.Time{made, made.AddDate(2, 0, 0)} {
		err := certreq.CheckCertificate(chain, key.Public(), now)
		if refused, ok := errors.AsType[*certreq.CertificateError](err); ok {
			fmt.Println("refused for its", refused.Problems[0].Field)
			continue
		}
		fmt.Println("accepted:", err == nil)
	}
	// Output:
	// accepted: true
	// refused for its validity
}

package tlsbridge_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"time"

	"github.com/keyagent/keyagent/tlsbridge"
)

// hardwareKey stands for a key in hardware: it signs, and its private part cannot be read. Any
// crypto.Signer will do.
type hardwareKey struct{ crypto.Signer }

// newHardwareKey makes a key and a self-signed certificate for it.
func newHardwareKey() (hardwareKey, []byte) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "machine 42"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		panic(err)
	}
	return hardwareKey{key}, der
}

// A bridge makes requests over mutual TLS with a certificate and a crypto.Signer. The server here
// answers with the name in the client's certificate.
func ExampleBridge() {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "hello, %s", r.TLS.PeerCertificates[0].Subject.CommonName)
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}
	server.StartTLS()
	defer server.Close()
	roots := x509.NewCertPool()
	roots.AddCert(server.Certificate())

	key, certificate := newHardwareKey()
	bridge, err := tlsbridge.New(tlsbridge.Config{RootCAs: roots}, tlsbridge.Pair{
		Chain:  [][]byte{certificate},
		Signer: func(context.Context) crypto.Signer { return key },
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer bridge.Close()

	req, err := http.NewRequestWithContext(context.Background(), http.MethodGet, server.URL, nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	resp, err := bridge.Client().Do(req)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(string(body))
	fmt.Println(bridge.Handshake().VersionName(), bridge.Handshake().SignatureName())
	// Output:
	// hello, machine 42
	// TLS 1.3 ecdsa_secp256r1_sha256
}

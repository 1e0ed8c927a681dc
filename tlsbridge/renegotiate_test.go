package tlsbridge_test

import (
	"bufio"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tlsbridge"
)

// A server that asks for the certificate only once it has seen the request, by renegotiation, gets
// it, as Azure Key Vault does. OpenSSL is one: Go's server cannot.
func TestACertificateThatIsAskedForLate(t *testing.T) {
	openssl := tooltest.Tool(t, "openssl")
	dir := t.TempDir()
	key, leaf := selfSigned(t, dir)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	_ = ln.Close()
	server := exec.CommandContext(t.Context(), openssl, "s_server", "-accept", address, "-tls1_2", "-cert", filepath.Join(dir, "pem"), "-naccept", "1", "-crlf", "-state")
	in, err := server.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	server.Stderr = server.Stdout
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Process.Kill(); _ = server.Wait() }()
	said := bufio.NewScanner(out)
	waitFor := func(what string) bool {
		for said.Scan() {
			if strings.Contains(said.Text(), what) {
				return true
			}
		}
		return false
	}
	if !waitFor("ACCEPT") {
		t.Fatal("openssl does not listen")
	}
	shown := make(chan bool, 1)
	go func() {
		waitFor("User-Agent: late")
		_, _ = io.WriteString(in, "R\n")
		shown <- waitFor("read client certificate") && waitFor("read finished")
		_, _ = io.WriteString(in, "HTTP/1.1 200 OK\nContent-Length: 0\n\n")
		_, _ = io.Copy(io.Discard, out)
	}()
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	b, err := tlsbridge.NewForResource(tlsbridge.Config{RootCAs: roots}, tlsbridge.Pair{
		Chain: [][]byte{leaf.Raw}, Signer: func(context.Context) crypto.Signer { return key },
	}, tlsbridge.AsksLater)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address+"/secrets", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", "late")
	resp, err := b.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if !<-shown || resp.StatusCode != http.StatusOK || b.Handshake().Count != 1 || b.Handshake().VersionName() != "TLS 1.2" {
		t.Errorf("status %d, %+v", resp.StatusCode, b.Handshake())
	}
}

// selfSigned makes a key with a certificate for 127.0.0.1, and writes both.
func selfSigned(t *testing.T, dir string) (crypto.Signer, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "late"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%s%s", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	if err := os.WriteFile(filepath.Join(dir, "pem"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return key, leaf
}

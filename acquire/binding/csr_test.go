package binding_test

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"encoding/hex"
	"flag"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/tooltest"
)

var update = flag.Bool("update", false, "rewrite the golden files")

var metadata = &imds.PlatformMetadata{
	ClientID:            "8b0c3d0e-0000-4000-8000-00000000c1d1",
	TenantID:            "1f2e3d4c-0000-4000-8000-0000000077e1",
	ComputeUnitID:       `{"vmId":"5a6b7c8d-0000-4000-8000-000000000e01"}`,
	AttestationEndpoint: "https://shared.attest.azure.net",
}

func newKey(t testing.TB) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// TestRequestInfoIsByteExact holds what the signature covers against a golden
// file. The modulus is made up: 256 bytes ff.
func TestRequestInfoIsByteExact(t *testing.T) {
	public := &rsa.PublicKey{N: new(big.Int).SetBytes(bytes.Repeat([]byte{0xff}, 256)), E: 65537}
	info, err := binding.RequestInfo(public, metadata)
	if err != nil {
		t.Fatal(err)
	}
	got := wrap(hex.EncodeToString(info))
	golden := filepath.Join("testdata", "certification-request-info.hex")
	if *update {
		if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("CertificationRequestInfo differs (-want +got):\n%s", diff)
	}
}

func wrap(s string) string {
	var b strings.Builder
	for len(s) > 64 {
		b.WriteString(s[:64] + "\n")
		s = s[64:]
	}
	return b.String() + s + "\n"
}

// TestOpenSSLReadsTheRequest lets OpenSSL verify the signature and print the
// structure, which is held against a golden file.
func TestOpenSSLReadsTheRequest(t *testing.T) {
	openssl := tooltest.Tool(t, "openssl")
	csr, err := binding.NewCertificateRequest(newKey(t), metadata)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "request.der")
	if err := os.WriteFile(file, csr, 0o600); err != nil {
		t.Fatal(err)
	}
	verified, err := exec.CommandContext(t.Context(), openssl, "req", "-inform", "DER", "-in", file, "-verify", "-noout").CombinedOutput()
	if err != nil || !strings.Contains(string(verified), "self-signature verify OK") {
		t.Errorf("openssl req -verify: %v\n%s", err, verified)
	}
	parsed, err := exec.CommandContext(t.Context(), openssl, "asn1parse", "-inform", "DER", "-in", file).Output()
	if err != nil {
		t.Fatalf("openssl asn1parse: %v", err)
	}
	golden := filepath.Join("testdata", "certificate-request.asn1parse")
	if *update {
		if err := os.WriteFile(golden, parsed, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(parsed)); diff != "" {
		t.Errorf("structure differs (-want +got):\n%s", diff)
	}
	changed := bytes.Replace(csr, []byte("vmId"), []byte("vmIe"), 1)
	if err := os.WriteFile(file, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	out, _ := exec.CommandContext(t.Context(), openssl, "req", "-inform", "DER", "-in", file, "-verify", "-noout").CombinedOutput()
	if !regexp.MustCompile(`(?i)verify failure|verification failure`).Match(out) {
		t.Errorf("openssl accepted a request that was changed after signing:\n%s", out)
	}
}

func TestOnlyRSA2048IsOffered(t *testing.T) {
	small, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := binding.NewCertificateRequest(small, metadata); err == nil {
		t.Error("a request for RSA-3072 was made; the issuer takes RSA-2048 only")
	}
}

package entra_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/acquire/entra"
	"github.com/keyagent/keyagent/internal/tooltest"
)

const audience = "https://westeurope.mtlsauth.microsoft.com/contoso.example/oauth2/v2.0/token"

func certify(t *testing.T, key crypto.Signer) *x509.Certificate {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "app"}, NotAfter: now.Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return leaf
}

// openAssertion takes an assertion apart with nothing but the standard library.
func openAssertion(t *testing.T, assertion string, header, claims any) (digest, signature []byte) {
	t.Helper()
	parts := strings.Split(assertion, ".")
	if len(parts) != 3 {
		t.Fatalf("got %d parts", len(parts))
	}
	var raw [3][]byte
	for i, part := range parts {
		decoded, err := base64.RawURLEncoding.Strict().DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		raw[i] = decoded
	}
	if err := errors.Join(json.Unmarshal(raw[0], header), json.Unmarshal(raw[1], claims)); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(parts[0] + "." + parts[1]))
	return sum[:], raw[2]
}

func TestClientAssertion(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf, issuer := certify(t, key), certify(t, key)
	sum256, sum1 := sha256.Sum256(leaf.Raw), sha1.Sum(leaf.Raw)
	x5c := []any{base64.StdEncoding.EncodeToString(leaf.Raw), base64.StdEncoding.EncodeToString(issuer.Raw)}
	for _, tc := range []struct {
		name   string
		pss    bool
		header map[string]any
		verify func(digest, signature []byte) error
	}{
		{
			"PS256", true,
			map[string]any{"alg": "PS256", "typ": "JWT", "x5t#S256": base64.RawURLEncoding.EncodeToString(sum256[:]), "x5c": x5c},
			func(digest, signature []byte) error {
				return rsa.VerifyPSS(&key.PublicKey, crypto.SHA256, digest, signature, &rsa.PSSOptions{SaltLength: 32})
			},
		},
		{
			"RS256", false,
			map[string]any{"alg": "RS256", "typ": "JWT", "x5t": base64.RawURLEncoding.EncodeToString(sum1[:]), "x5c": x5c},
			func(digest, signature []byte) error {
				return rsa.VerifyPKCS1v15(&key.PublicKey, crypto.SHA256, digest, signature)
			},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			spec := entra.AssertionSpec{ClientID: clientID, Audience: audience, Chain: []*x509.Certificate{leaf, issuer}, PSS: tc.pss, Now: now}
			assertion, err := entra.NewClientAssertion(key, spec)
			if err != nil {
				t.Fatal(err)
			}
			var header, claims map[string]any
			digest, signature := openAssertion(t, assertion.Reveal(), &header, &claims)
			if err := tc.verify(digest, signature); err != nil {
				t.Errorf("signature: %v", err)
			}
			if diff := cmp.Diff(tc.header, header); diff != "" {
				t.Errorf("header differs (-want +got):\n%s", diff)
			}
			id, _ := claims["jti"].(string)
			delete(claims, "jti")
			want := map[string]any{"iss": clientID, "sub": clientID, "aud": audience, "nbf": float64(now.Unix()), "exp": float64(now.Unix() + 600)}
			if diff := cmp.Diff(want, claims); diff != "" || len(id) != 36 {
				t.Errorf("jti %q, claims differ (-want +got):\n%s", id, diff)
			}
			if again, err := entra.NewClientAssertion(key, spec); err != nil || again.Equal(assertion) {
				t.Errorf("a second assertion is the first one, %v", err)
			}
		})
	}
}

func TestOpenSSLAcceptsTheAssertion(t *testing.T) {
	openssl := tooltest.Tool(t, "openssl")
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certify(t, key)
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	keyFile := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	for name, options := range map[string][]string{
		"PS256": {"-sigopt", "rsa_padding_mode:pss", "-sigopt", "rsa_pss_saltlen:32", "-sigopt", "rsa_mgf1_md:sha256"},
		"RS256": nil,
	} {
		assertion, err := entra.NewClientAssertion(key, entra.AssertionSpec{
			ClientID: clientID, Audience: audience, Chain: []*x509.Certificate{leaf}, PSS: name == "PS256", Now: now,
		})
		if err != nil {
			t.Fatal(err)
		}
		signed := assertion.Reveal()[:strings.LastIndexByte(assertion.Reveal(), '.')]
		_, signature := openAssertion(t, assertion.Reveal(), new(any), new(any))
		args := slices.Concat([]string{"dgst", "-sha256", "-verify", keyFile}, options,
			[]string{"-signature", file("signature", signature), file("signed", []byte(signed))})
		if out, err := exec.CommandContext(t.Context(), openssl, args...).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// brokenKey cannot sign.
type brokenKey struct{ crypto.Signer }

func (brokenKey) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errBroken
}

var errBroken = errors.New("the TPM is gone")

func TestAssertionsThatCannotBe(t *testing.T) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := certify(t, key)
	good := entra.AssertionSpec{ClientID: clientID, Audience: audience, Chain: []*x509.Certificate{leaf}, PSS: true, Now: now}
	for _, tc := range []struct {
		name   string
		key    crypto.Signer
		change func(*entra.AssertionSpec)
		want   string
	}{
		{"an ECDSA key", curve, func(s *entra.AssertionSpec) { s.Chain = []*x509.Certificate{certify(t, curve)} }, "RSA keys only"},
		{"no certificate", key, func(s *entra.AssertionSpec) { s.Chain = nil }, "no certificate"},
		{"another key's certificate", key, func(s *entra.AssertionSpec) { s.Chain = []*x509.Certificate{certify(t, curve)} }, "another key"},
		{"no client id", key, func(s *entra.AssertionSpec) { s.ClientID = "" }, "client id"},
		{"no audience", key, func(s *entra.AssertionSpec) { s.Audience = "" }, "audience"},
		{"a key that fails", brokenKey{key}, func(*entra.AssertionSpec) {}, "the TPM is gone"},
	} {
		spec := good
		tc.change(&spec)
		got, err := entra.NewClientAssertion(tc.key, spec)
		if err == nil || !got.IsZero() || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want an error with %q", tc.name, err, tc.want)
		}
	}
	if _, err := entra.NewClientAssertion(brokenKey{key}, good); !errors.Is(err, errBroken) {
		t.Errorf("got %v, want the key's own error inside", err)
	}
}

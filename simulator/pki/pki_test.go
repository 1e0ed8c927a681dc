package pki_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	spb "github.com/google/go-sev-guest/proto/sevsnp"
	sevverify "github.com/google/go-sev-guest/verify"
	"github.com/google/go-sev-guest/verify/trust"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/attest/tee"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/simulator/pki"
)

func epoch() time.Time { return time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC) }

func processor(t *testing.T, p pki.Product) *pki.Processor {
	t.Helper()
	c, err := pki.NewProcessor(p, epoch())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rsaKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestReportIsAcceptedByAnIndependentVerifier(t *testing.T) {
	for _, p := range []pki.Product{pki.Milan(), pki.Genoa()} {
		t.Run(p.Line, func(t *testing.T) {
			t.Parallel()
			c := processor(t, p)
			raw, err := c.Report(pki.Launch{GuestSVN: 12}, [64]byte{1})
			if err != nil {
				t.Fatal(err)
			}
			report, err := abi.ReportToProto(raw)
			if err != nil {
				t.Fatal(err)
			}
			root := trust.AMDRootCertsProduct(p.Line)
			root.ProductCerts = &trust.ProductCerts{Ark: c.ARK, Ask: c.ASK}
			attestation := &spb.Attestation{Report: report, CertificateChain: &spb.CertificateChain{
				VcekCert: c.VCEK.Raw, AskCert: c.ASK.Raw, ArkCert: c.ARK.Raw,
			}}
			err = sevverify.SnpAttestation(attestation, &sevverify.Options{
				DisableCertFetching: true,
				Now:                 epoch(),
				TrustedRoots:        map[string][]*trust.AMDRootCerts{p.Line: {root}},
			})
			if err != nil {
				t.Errorf("go-sev-guest refuses the report: %v", err)
			}
		})
	}
}

func TestReportIsAcceptedByOurVerifier(t *testing.T) {
	c := processor(t, pki.Milan())
	claims, err := pki.RuntimeClaims{AK: &rsaKey(t).PublicKey, VMID: "5a6b7c8d-0000-4000-8000-000000000e01", UserData: []byte{0xab}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := c.Report(pki.Launch{IDKeyDigest: [48]byte{7}}, pki.ReportData(claims))
	if err != nil {
		t.Fatal(err)
	}
	wrapped, err := pki.HCLReport(raw, claims)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := hcl.Parse(wrapped)
	if err != nil {
		t.Fatal(err)
	}
	if err := parsed.CheckBinding(); err != nil {
		t.Error(err)
	}
	report, err := tee.ParseSNPReport(parsed.Hardware)
	if err != nil {
		t.Fatal(err)
	}
	roots, err := attest.ParseAMDRoots(c.RootsPEM())
	if err != nil {
		t.Fatal(err)
	}
	root, err := tee.VerifySigner(c.VCEK, roots, epoch())
	if err != nil {
		t.Fatal(err)
	}
	if err := tee.CheckIdentity(report, c.VCEK, root); err != nil {
		t.Error(err)
	}
	if err := report.VerifySignature(c.VCEK); err != nil {
		t.Error(err)
	}
	got, err := hcl.ParseClaims(parsed.Claims)
	if err != nil || got.UserData[0] != 0xab || len(got.UserData) != 64 || got.VMConfiguration.VMUniqueID == "" {
		t.Errorf("claims %+v: %v", got, err)
	}
}

func TestHCLReportRefusesClaimsThatDoNotFit(t *testing.T) {
	if _, err := pki.HCLReport(make([]byte, 1183), nil); err == nil {
		t.Error("a short SNP report was wrapped")
	}
	if _, err := pki.HCLReport(make([]byte, 1184), make([]byte, 1400)); err == nil {
		t.Error("claims beyond the NV index were wrapped")
	}
	if _, err := (pki.RuntimeClaims{UserData: make([]byte, 65)}).Encode(); err == nil {
		t.Error("65 bytes of user data were encoded")
	}
}

func TestAKCertificateHasAzuresShape(t *testing.T) {
	a, err := pki.NewVTPMAuthority(epoch())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.CertifyAK(&rsaKey(t).PublicKey, epoch())
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^[0-9a-f]{12}\.ConfidentialVM\.Azure\.windows\.net$`).MatchString(cert.Subject.CommonName) {
		t.Errorf("subject %q", cert.Subject.CommonName)
	}
	usages := []string{}
	for _, id := range cert.UnknownExtKeyUsage {
		usages = append(usages, id.String())
	}
	if !slices.Equal(usages, []string{"1.3.6.1.4.1.311.10.3.12", "2.23.133.8.3"}) {
		t.Errorf("extended key usages %v", usages)
	}
	if len(cert.Policies) != 1 || cert.Policies[0].String() != "1.3.6.1.4.1.311.108.200.2" || cert.IsCA || len(cert.Raw) > 2048 {
		t.Errorf("policies %v, CA %t, %d bytes", cert.Policies, cert.IsCA, len(cert.Raw))
	}
	roots, intermediates := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.Root)
	intermediates.AddCert(a.Intermediate)
	if _, err := cert.Verify(x509.VerifyOptions{
		Roots: roots, Intermediates: intermediates, CurrentTime: epoch(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}); err != nil {
		t.Error(err)
	}
}

func TestBindingCertificate(t *testing.T) {
	issuer, err := pki.NewIdentityIssuer(epoch())
	if err != nil {
		t.Fatal(err)
	}
	const clientID = "8b0c3d0e-0000-4000-8000-00000000c1d1"
	key := rsaKey(t)
	cert, err := issuer.Issue(pki.BindingCertificate{ClientID: clientID, Key: key.Public(), Now: epoch()})
	if err != nil {
		t.Fatal(err)
	}
	if cert.Subject.CommonName != clientID || cert.Issuer.CommonName != "managedidentitysnissuer.login.microsoft.com" {
		t.Errorf("subject %v, issuer %v", cert.Subject, cert.Issuer)
	}
	if cert.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}) {
		t.Errorf("usages %v %v", cert.KeyUsage, cert.ExtKeyUsage)
	}
	if want := epoch().Add(14 * 24 * time.Hour); !cert.NotAfter.Equal(want) {
		t.Errorf("notAfter %v, want %v", cert.NotAfter, want)
	}
	at := slices.IndexFunc(cert.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(pki.OIDTokenNotAfter()) })
	if at < 0 {
		t.Fatal("no token_not_after")
	}
	var tokenNotAfter time.Time
	rest, err := asn1.UnmarshalWithParams(cert.Extensions[at].Value, &tokenNotAfter, "generalized")
	if want := epoch().Add(7 * 24 * time.Hour); err != nil || len(rest) != 0 || !tokenNotAfter.Equal(want) {
		t.Errorf("token_not_after %v (%v), want %v", tokenNotAfter, err, want)
	}

	without, err := issuer.Issue(pki.BindingCertificate{ClientID: clientID, Key: key.Public(), Now: epoch(), Life: time.Hour, TokenLife: -1})
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(without.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(pki.OIDTokenNotAfter()) }) {
		t.Error("token_not_after is there although it was left out")
	}
}

func TestServerCertificateIsGoodForLoopback(t *testing.T) {
	a, err := pki.NewServerAuthority(epoch())
	if err != nil {
		t.Fatal(err)
	}
	cert, err := a.Certificate(epoch())
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(a.Root)
	server, client := net.Pipe()
	errs := make(chan error, 1)
	go func() {
		errs <- tls.Server(server, &tls.Config{Certificates: []tls.Certificate{cert}, Time: epoch, MinVersion: tls.VersionTLS12}).Handshake()
	}()
	err = tls.Client(client, &tls.Config{RootCAs: roots, ServerName: "127.0.0.1", Time: epoch, MinVersion: tls.VersionTLS12}).Handshake()
	if err != nil {
		t.Errorf("client: %v", err)
	}
	client.Close()
	if err := <-errs; err != nil {
		t.Errorf("server: %v", err)
	}
}

// openssl, which shares no code with us, must be able to read what was signed with PSS and the
// chain above it.
func TestOpenSSLVerifiesTheAMDChain(t *testing.T) {
	openssl := tooltest.Tool(t, "openssl")
	c := processor(t, pki.Milan())
	dir := t.TempDir()
	files := map[string][]byte{"ark.pem": pki.EncodePEM(c.ARK), "ask.pem": pki.EncodePEM(c.ASK), "vcek.pem": c.VCEKPEM()}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.CommandContext(t.Context(), openssl, "verify", "-attime", big.NewInt(epoch().Unix()).String(),
		"-CAfile", filepath.Join(dir, "ark.pem"), "-untrusted", filepath.Join(dir, "ask.pem"), filepath.Join(dir, "vcek.pem")).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "OK") {
		t.Errorf("openssl verify: %v\n%s", err, out)
	}
	if key, ok := c.VCEK.PublicKey.(*ecdsa.PublicKey); !ok || key.Curve != elliptic.P384() {
		t.Errorf("VCEK key %T", c.VCEK.PublicKey)
	}
	block, rest := pem.Decode(c.RootsPEM())
	if block == nil || len(rest) == 0 || string(block.Bytes) != string(c.ASK.Raw) {
		t.Error("the roots are not ASK, then ARK")
	}
}

package formats_test

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/tooltest"
)

// An authority that knows nothing of the attribute issues a certificate for the key, and the
// structure is DER that openssl reads.
func TestAnAuthorityThatDoesNotKnowTheAttributeIssues(t *testing.T) {
	t.Parallel()
	program := tooltest.Tool(t, "openssl")
	_, e := machine(t)
	e.EventLog = nil
	dir := t.TempDir()
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request(t, keys.Key, e, nil)})
	if err := os.WriteFile(filepath.Join(dir, "app.csr"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	openssl := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), program, args...)
		cmd.Dir = dir
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
		return string(out)
	}
	openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=CA", "-keyout", "ca.key", "-out", "ca.pem")
	openssl("x509", "-req", "-in", "app.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-out", "app.pem")
	issued, err := os.ReadFile(filepath.Join(dir, "app.pem"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(issued)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil || !cert.PublicKey.(*rsa.PublicKey).Equal(&keys.Key.PublicKey) || cert.Subject.CommonName != "app" {
		t.Errorf("%v, %v", cert.Subject, err)
	}
	read := openssl("asn1parse", "-in", "app.csr")
	for _, oid := range []string{"2.23.133.20.1", "2.23.133.20.2", "2.25.166227096281657177712362453679514078807"} {
		if !strings.Contains(read, oid) {
			t.Errorf("openssl does not see statement %s", oid)
		}
	}
}

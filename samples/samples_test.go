// Package samples_test follows the READMEs of the samples: with the real keyagent, on a simulated
// platform.
package samples_test

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/client"
	"github.com/keyagent/keyagent/simulator/entra"
	"github.com/keyagent/keyagent/simulator/imds"
	"github.com/keyagent/keyagent/simulator/journal"
	"github.com/keyagent/keyagent/simulator/resource"
)

const (
	certificateSample = "daemon-cert-bound"
	federatedSample   = "daemon-fic-bound"
)

// program is where TestMain has built each of ours.
var program = map[string]string{"./cmd/keyagent": "", "./simulator/azuresim": "", "./samples/" + certificateSample + "/go": "", "./samples/" + federatedSample + "/go": "", "./samples/" + execSample + "/go": "", "./samples/" + verifierSample: ""}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "samples")
	for pkg := range program {
		program[pkg] = filepath.Join(dir, strings.ReplaceAll(pkg, "/", "-"))
		build := exec.Command("go", "build", "-buildvcs=false", "-o", program[pkg], pkg)
		build.Dir, build.Stderr = "..", os.Stderr
		err = errors.Join(err, build.Run())
	}
	code := 1
	if err == nil {
		code = m.Run()
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func samples() []string { return []string{certificateSample, federatedSample} }

func TestADaemonsCertificateIsShownOverMutualTLSUntilBindingIsTurnedOff(t *testing.T) {
	s := newStage(t, certificateSample, "app-cert")
	s.configure(asItIs)
	s.follow()
	s.runDaemons()
	s.wants(entra.OpLogin, 0)
	for _, e := range s.wants(entra.OpToken, 1) {
		if want := s.thumbprint("app.cer"); e.ClientCertThumbprint != want || e.TLSVersion == "" {
			t.Errorf("the token was asked for with certificate %q, want %q: %+v", e.ClientCertThumbprint, want, e)
		}
	}

	s.stopAgent()
	s.configure(neverBound)
	s.selfSign()
	s.startAgent()
	s.runDaemons()
	s.wants(entra.OpToken, 1) // that of before
	for _, e := range s.wants(entra.OpLogin, 1) {
		if e.ClientCertThumbprint != "" || e.Detail["assertion"] == nil {
			t.Errorf("want an assertion and no client certificate: %+v", e)
		}
	}
}

func TestADaemonsManagedIdentityIsBoundInBothRequestsUntilBindingIsTurnedOff(t *testing.T) {
	s := newStage(t, federatedSample, "app-fic")
	s.configure(asItIs)
	s.follow()
	s.runDaemons()
	s.wants(entra.OpLogin, 0)
	s.wants(imds.OpToken, 0)
	s.wants(imds.OpCredential, 1)
	want := s.token().Binding
	for _, e := range s.wants(entra.OpToken, 2) {
		if want == nil || e.ClientCertThumbprint != want.Thumbprint {
			t.Errorf("want the binding certificate %+v: %+v", want, e)
		}
	}

	s.stopAgent()
	s.configure(neverBound)
	s.startAgent()
	s.runDaemons()
	s.wants(entra.OpToken, 2) // those of before
	s.wants(imds.OpCredential, 1)
	s.wants(imds.OpToken, 1)
	for _, e := range s.wants(entra.OpLogin, 1) {
		if e.ClientCertThumbprint != "" || e.Detail["assertion_type"] != "jwt-bearer" {
			t.Errorf("want a plain assertion and no client certificate: %+v", e)
		}
	}
}

// selfSign puts a certificate in the place of the issued one that will do where nothing is bound.
func (s *stage) selfSign() {
	s.t.Helper()
	for line := range strings.SplitSeq(read(s.t, s.sample, "README.md"), "`") {
		command, found := strings.CutPrefix(line, "keyagent key self-sign ")
		if !found {
			continue
		}
		args := append([]string{"key", "self-sign", "--replace"}, strings.Fields(command)...)
		if text, err := s.command(args...).CombinedOutput(); err != nil {
			s.t.Fatalf("keyagent key self-sign %s: %v\n%s", command, err, text)
		}
		block, _ := pem.Decode([]byte(read(s.t, s.dir, "app.cer")))
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err = errors.Join(err, s.platform.RegisterCertificate(s.application.Name, leaf)); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	s.t.Fatal("the README makes no certificate for what is not bound")
}

// wants checks how often the platform saw an operation, each time with success.
func (s *stage) wants(operation string, count int) []journal.Entry {
	s.t.Helper()
	entries := s.platform.Journal().Operation(operation)
	if len(entries) != count || slices.ContainsFunc(entries, func(e journal.Entry) bool { return e.Outcome != journal.OK }) {
		s.t.Errorf("%s: want %d answered requests: %+v", operation, count, entries)
	}
	return entries
}

// runDaemons runs the three programs. Each prints the caller that the API saw.
func (s *stage) runDaemons() {
	s.t.Helper()
	for _, d := range daemons(s.sample) {
		s.t.Run(d.name, func(t *testing.T) {
			info := s.platform.Info()
			out, complaint, err := d.run(t, environment{
				"KEYAGENT_SOCKET": s.socket, "IDENTITY": "reports", "RESOURCE": info.ResourceAudience,
				"API_URL": info.Resource + "/secrets?api-version=7.4", "CA_FILE": info.CAFile,
			})
			var saw resource.Caller
			if err != nil || json.Unmarshal([]byte(out), &saw) != nil {
				t.Fatalf("%v\n%s%s", err, out, complaint)
			}
			if saw.ClientID != s.application.ClientID || saw.Bound {
				t.Errorf("the API saw %+v, want %s", saw, s.application.ClientID)
			}
		})
	}
}

// token is what an app gets, with what the agent says about it.
func (s *stage) token() client.Token {
	s.t.Helper()
	agent := client.New(client.Config{Socket: s.socket})
	defer agent.Close()
	token, err := agent.Token(s.t.Context(), client.TokenRequest{Identity: "reports", Resource: s.platform.Info().ResourceAudience})
	if err != nil {
		s.t.Fatal(err)
	}
	return token
}

// thumbprint is the x5t#S256 of a certificate in the stage's directory.
func (s *stage) thumbprint(file string) string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, file))
	if err != nil {
		s.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil {
		s.t.Fatalf("%s is not PEM", file)
	}
	sum := sha256.Sum256(block.Bytes)
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// asItIs and neverBound are what an operator makes of a sample's configuration.
func asItIs(text string) string { return text }
func neverBound(text string) string {
	return strings.Replace(text, "# bound: never", "bound: never", 1)
}

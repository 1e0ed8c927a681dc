package main

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/keyring"
)

// The issuer of a certificate chooses the names in it, and the server at the other end of --connect
// those in an error.
func TestNothingSteersTheTerminal(t *testing.T) {
	t.Parallel()
	const evil = "x\x1b[2J\u009b31m\x07\t\v\u202e"
	c := keyring.CertificateReport{
		Subject: "CN=" + evil + "\n  issuer  itself", Issuer: "CN=" + evil, AltNames: []string{"DNS:" + evil}, Chain: []string{evil},
		Problem: evil, File: evil,
	}
	for _, tt := range []struct {
		name  string
		print func(*app) error
	}{
		{"a certificate", func(a *app) error { return a.printCertificate(c, false) }},
		{"a key", func(a *app) error {
			r := keyring.KeyReport{Name: "app", KeyFile: evil, Problem: evil, Warnings: []string{evil}, Certificate: &c}
			a.exit(a.printKey(r, false, "next"), &cobra.Command{Use: "keyagent"})
			return nil
		}},
		{"a diagnosis", func(a *app) error {
			return a.printDiagnosis(doctor.Diagnosis{Findings: []doctor.Finding{{Verdict: "ok", Check: "key", Detail: evil + "\nmore", Action: evil}}}, false)
		}},
		{"an error", func(a *app) error { a.exit(errors.New(evil), &cobra.Command{Use: "keyagent"}); return nil }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			if err := tt.print(&app{streams: streams{out: &out, err: &out}}); err != nil {
				t.Fatal(err)
			}
			for line := range strings.SplitSeq(out.String(), "\n") {
				if i := strings.IndexFunc(line, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
					t.Errorf("in %q", line)
				}
				if strings.HasPrefix(strings.TrimSpace(line), "issuer  itself") {
					t.Errorf("a subject made the line %q", line)
				}
			}
			if !strings.Contains(out.String(), `x\x1b[2J`) {
				t.Errorf("it is not shown: %q", out.String())
			}
		})
	}
}

func TestAKeyThatDoesNotWorkIsNoSuccess(t *testing.T) {
	t.Parallel()
	for _, asJSON := range []bool{false, true} {
		for problem, want := range map[string]int{"": exitDone, "PCRs have changed": exitFailed} {
			var out, errs bytes.Buffer
			a := &app{streams: streams{out: &out, err: &errs}}
			if code := a.exit(a.printKey(keyring.KeyReport{Name: "app", Problem: problem}, asJSON, "next: sign"), &cobra.Command{Use: "keyagent"}); code != want {
				t.Errorf("problem %q: code %d", problem, code)
			}
			if !strings.Contains(errs.String(), problem) || problem != "" && strings.Contains(out.String(), "next: sign") {
				t.Errorf("problem %q: %s%s", problem, out.String(), errs.String())
			}
		}
	}
}

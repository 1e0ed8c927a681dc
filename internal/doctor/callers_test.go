package doctor_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/peer"
	"github.com/keyagent/keyagent/agentapi/wire"
	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
)

// detail returns what the checks of this name say.
func detail(d doctor.Diagnosis, check string) string {
	var said []string
	for _, f := range d.Findings {
		if f.Check == check {
			said = append(said, f.Verdict+" "+f.Detail)
		}
	}
	return strings.Join(said, "\n")
}

func TestTheDiagnosisOfCallers(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	rule := &s.Config.Rules[0]

	t.Run("the form in which they are known", func(t *testing.T) {
		form := (peer.Host{}).Level().Process
		if said := detail(s.Diagnose(nil), "callers"); !strings.HasPrefix(said, "ok ") || !strings.Contains(said, "known by "+string(form)) ||
			!strings.Contains(said, "caller_identity: available") {
			t.Errorf("it says %q", said)
		}
	})

	t.Run("a weaker form", func(t *testing.T) {
		for reason, want := range map[string]string{"": doctor.VerdictOK, "the kernel is older than 5.3": doctor.VerdictWarn} {
			known := wire.CallerIdentity{Required: "available", Process: "number", Reason: reason}
			f := doctor.CallersOf(s.Config, known)
			if f.Verdict != want || !strings.Contains(f.Detail, "known by number") || !strings.Contains(f.Detail, reason) || (f.Action == "") != (want == doctor.VerdictOK) {
				t.Errorf("%q: %+v", reason, f)
			}
		}
	})

	t.Run("a rule for root", func(t *testing.T) {
		users := rule.Users
		rule.Users = []string{"root"}
		defer func() { rule.Users = users }()
		if said := detail(s.Diagnose(nil), "callers: rules"); !strings.Contains(said, "warn") || !strings.Contains(said, "every container") {
			t.Errorf("it says %q", said)
		}
	})

	t.Run("a unit that does not run", func(t *testing.T) {
		rule.Units = []string{"keyagent-no-such.service"}
		defer func() { rule.Units = nil }()
		d := s.Diagnose(nil)
		if (peer.Host{}).CheckUnits() != nil {
			if said := detail(d, "callers: rules"); !strings.Contains(said, "units:") {
				t.Errorf("units cannot be told apart here, and it says %q", said)
			}
			return
		}
		if said := detail(d, "unit keyagent-no-such.service"); !strings.Contains(said, "/system.slice/keyagent-no-such.service") {
			t.Errorf("it says %q", said)
		}
	})

	dir := t.TempDir()
	program := filepath.Join(dir, "program")
	for _, tt := range []struct {
		name, path string
		make       func() error
		want       string // "": nothing is wrong
	}{
		{"a program that is missing", program, func() error { return nil }, "does not exist"},
		{"a program", program, func() error { return os.WriteFile(program, nil, 0o755) }, ""},
		{"one that others may write", program, func() error { return os.Chmod(program, 0o777) }, "others could put another program"},
		{"a directory", dir, func() error { return nil }, "not a file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := tt.make(); err != nil {
				t.Fatal(err)
			}
			rule.Executables = []string{tt.path}
			defer func() { rule.Executables = nil }()
			d := s.Diagnose(nil)
			said := detail(d, "program "+tt.path)
			if (said == "") != (tt.want == "") || !strings.Contains(said, tt.want) {
				t.Errorf("it says %q, want %q", said, tt.want)
			}
			if cannot := (peer.Host{}).CheckExecutables(); cannot != nil &&
				!slices.ContainsFunc(d.Findings, func(f doctor.Finding) bool { return strings.Contains(f.Detail, "executables:") }) {
				t.Errorf("it does not say that programs cannot be seen: %v", cannot)
			}
		})
	}
}

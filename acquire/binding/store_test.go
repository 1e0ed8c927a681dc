package binding_test

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
)

const resourceID = "/subscriptions/0b1c/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/app"

func TestStateFileOfASelector(t *testing.T) {
	for _, tc := range []struct {
		name string
		sel  imds.Selector
		want string // empty: refused
	}{
		{"the system-assigned identity", imds.Selector{}, "binding-system.json"},
		{"a client id", imds.Selector{ClientID: "8B0C3D0E-0000-4000-8000-00000000C1D1"}, "binding-client-8b0c3d0e-0000-4000-8000-00000000c1d1.json"},
		{"an object id", imds.Selector{ObjectID: "8b0c3d0e-0000-4000-8000-00000000c1d1"}, "binding-object-8b0c3d0e-0000-4000-8000-00000000c1d1.json"},
		{"a resource id", imds.Selector{ResourceID: resourceID}, "binding-resource-cd1d1b343387cb258158bbff88a15f85.json"},
		{"a resource id in capitals", imds.Selector{ResourceID: strings.ToUpper(resourceID)}, "binding-resource-cd1d1b343387cb258158bbff88a15f85.json"},
		{"a client id that is a path", imds.Selector{ClientID: "../../../../../../../../etc/passwd00"}, ""},
		{"a client id in another notation", imds.Selector{ClientID: "{8b0c3d0e-0000-4000-8000-00000000c1d1}"}, ""},
		{"an object id that is a name", imds.Selector{ObjectID: "app"}, ""},
	} {
		got, err := binding.FileOf(tc.sel)
		if got != tc.want || (err == nil) != (tc.want != "") {
			t.Errorf("%s: got %q, %v; want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestASelectorWithoutANameIsRefused(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	sel := imds.Selector{ClientID: "../app"}
	if _, err := m.Certificate(t.Context(), sel); err == nil || !strings.Contains(err.Error(), "not a GUID") {
		t.Errorf("Certificate: %v", err)
	}
	if _, err := m.Replace(t.Context(), sel, nil, binding.ReasonCertificate); err == nil {
		t.Error("Replace: no error")
	}
	if m.Current(sel) != nil {
		t.Error("a certificate is in use for it")
	}
}

func TestTwoSpellingsOfOneSelectorShareACertificate(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	lower, upper := imds.Selector{ClientID: metadata.ClientID}, imds.Selector{ClientID: strings.ToUpper(metadata.ClientID)}
	if m.Current(lower) != nil {
		t.Error("a certificate was there before anybody asked")
	}
	first := w.certificateOf(t, m, upper)
	if second := w.certificateOf(t, m, lower); second != first || m.Current(lower) != first || w.issued != 1 {
		t.Errorf("%d issuances, want one certificate", w.issued)
	}
	if c := w.certificateOf(t, w.start(), lower); c.Thumbprint() != first.Thumbprint() {
		t.Error("another certificate after a restart")
	}
}

func TestIMDSMaySpellIDsOtherwiseEachTime(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	w.meta.ClientID, w.meta.TenantID = strings.ToUpper(w.meta.ClientID), strings.ToUpper(w.meta.TenantID)
	if c := w.certificate(t, m); c != first {
		t.Error("the certificate was discarded")
	}
}

func TestAFileThatWasCopiedToAnotherIdentityIsNotTaken(t *testing.T) {
	w := newWorld(t)
	app := imds.Selector{ObjectID: metadata.ClientID}
	w.certificate(t, w.start())
	name, err := binding.FileOf(app)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(w.file(), filepath.Join(w.dir, name)); err != nil {
		t.Fatal(err)
	}
	w.certificateOf(t, w.start(), app)
	if w.issued != 2 || !strings.Contains(w.log.String(), "moved_to") {
		t.Errorf("%d issuances, want 2\n%s", w.issued, w.log.String())
	}
}

// files are the names and contents in a state directory.
type files map[string]string

func (w *world) snapshot(t *testing.T) files {
	t.Helper()
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		t.Fatal(err)
	}
	all := files{}
	for _, e := range entries {
		data, err := os.ReadFile(filepath.Join(w.dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(data)
	}
	return all
}

// crashes are the states in which a process that changes before into after with
// one statefile.Write can end: with the temporary file at any length, and renamed.
func crashes(before, after files) map[string]files {
	states := map[string]files{"before anything": before, "after everything": after}
	text := after["binding-system.json"]
	for point, length := range map[string]int{
		"the temporary file is empty": 0, "the temporary file is half written": len(text) / 2, "the temporary file is written": len(text),
	} {
		state := maps.Clone(before)
		state[".binding-system.json.tmp-1"] = text[:length]
		states[point] = state
	}
	return states
}

// TestAProcessThatDiesAtAnyMoment replays what a kill can leave on disk at each
// step of a certificate's life.
func TestAProcessThatDiesAtAnyMoment(t *testing.T) {
	for _, step := range []struct {
		name   string
		scene  func(*testing.T, *world, *binding.Manager) // puts something on disk
		change func(*testing.T, *world, *binding.Manager)
		issued int // by the start after a kill that left all of the change
	}{
		{"at the first issuance", func(*testing.T, *world, *binding.Manager) {}, func(t *testing.T, w *world, m *binding.Manager) { w.certificate(t, m) }, 0},
		{"when a certificate is replaced by the next", func(t *testing.T, w *world, m *binding.Manager) { w.certificate(t, m) },
			func(t *testing.T, w *world, m *binding.Manager) {
				w.advance(7 * 24 * time.Hour)
				w.certificate(t, m)
			}, 0},
		{"when a rejection is written down", func(t *testing.T, w *world, m *binding.Manager) { w.certificate(t, m) },
			func(t *testing.T, w *world, m *binding.Manager) {
				w.fail(errDown)
				if _, err := m.Replace(t.Context(), system, m.Current(system), binding.ReasonCertificate); !errors.Is(err, errDown) {
					t.Fatal(err)
				}
				w.fail(nil)
			}, 1},
	} {
		t.Run(step.name, func(t *testing.T) {
			w := newWorld(t)
			m := w.start()
			step.scene(t, w, m)
			before, old := w.snapshot(t), m.Current(system)
			step.change(t, w, m)
			after, fresh := w.snapshot(t), m.Current(system)
			for point, state := range crashes(before, after) {
				t.Run(point, func(t *testing.T) {
					survived(t, w, state, []*binding.Certificate{old, fresh})
					if point == "after everything" && w.issued != step.issued {
						t.Errorf("%d issuances, want %d", w.issued, step.issued)
					}
				})
			}
		})
	}
}

// survived starts on what a kill left: the certificate is one that was whole, or a
// new one, and what comes of it is found by the next start.
func survived(t *testing.T, w *world, state files, whole []*binding.Certificate) {
	t.Helper()
	w.dir = t.TempDir()
	if err := os.Chmod(w.dir, 0o700); err != nil { // #nosec G302 -- a directory
		t.Fatal(err)
	}
	for name, text := range state {
		if err := os.WriteFile(filepath.Join(w.dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	w.issued = 0
	got := w.certificate(t, w.start())
	known := false
	for _, c := range whole {
		known = known || c != nil && c.Thumbprint() == got.Thumbprint()
	}
	if known == (w.issued == 1) || w.issued > 1 {
		t.Errorf("%d issuances, a certificate from before: %v", w.issued, known)
	}
	if again := w.certificate(t, w.start()); again.Thumbprint() != got.Thumbprint() {
		t.Error("the next start does not find it")
	}
	if strings.Contains(w.log.String(), "moved_to") {
		t.Errorf("a state file was torn:\n%s", w.log.String())
	}
}

func FuzzDecodeRecord(f *testing.F) {
	f.Add([]byte(`{"version": 2, "selector": "system", "certificate": "MAA=", "rejected": "x"}`))
	f.Add([]byte(`{"version": 2, "selector": "system"} {}`))
	f.Add([]byte(`{"version": 1, "identity": "system"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if err := binding.DecodeRecord(data, "system"); err == nil && !strings.Contains(string(data), "system") && !strings.Contains(string(data), `\u`) {
			t.Errorf("accepted %q", data)
		}
	})
}

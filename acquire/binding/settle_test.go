package binding_test

import (
	"crypto/x509"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/acquire/binding"
	"github.com/keyagent/keyagent/acquire/imds"
	"github.com/keyagent/keyagent/internal/tooltest"
)

// unreadable are ways in which a good state file cannot be read for a while. Each returns what ends
// it.
var unreadable = map[string]func(t *testing.T, path string) (end func()){
	"no descriptor is left": func(t *testing.T, _ string) func() { return tooltest.WithoutDescriptors(t) },
	"it is open to others": func(t *testing.T, path string) func() {
		must(t, os.Chmod(path, 0o644)) // #nosec G302 -- the case under test
		return func() { must(t, os.Chmod(path, 0o600)) }
	},
	"it belongs to another user": func(t *testing.T, path string) func() {
		if err := os.Chown(path, 12345, -1); err != nil {
			t.Skipf("cannot give a file to another user: %v", err)
		}
		return func() { must(t, os.Chown(path, os.Geteuid(), -1)) }
	},
	"a symbolic link is in its place": func(t *testing.T, path string) func() {
		must(t, os.Rename(path, path+".moved"))
		must(t, os.Symlink(path+".moved", path))
		return func() { must(t, os.Rename(path+".moved", path)) }
	},
	"a directory is in its place": func(t *testing.T, path string) func() {
		must(t, os.Rename(path, path+".moved"))
		must(t, os.Mkdir(path, 0o700))
		return func() {
			must(t, os.Remove(path))
			must(t, os.Rename(path+".moved", path))
		}
	},
	"its directory cannot be entered": func(t *testing.T, path string) func() {
		if os.Geteuid() == 0 {
			t.Skip("root enters every directory")
		}
		must(t, os.Chmod(filepath.Dir(path), 0)) // #nosec G302 -- the case under test
		return func() { must(t, os.Chmod(filepath.Dir(path), 0o700)) }
	},
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) content(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile(w.file())
	must(t, err)
	return string(data)
}

func TestAStateFileThatCannotBeReadIsKept(t *testing.T) {
	for name, fault := range unreadable {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			first := w.certificate(t, w.start())
			before := w.content(t)
			end := fault(t, w.file())
			m := w.start()
			second, err := m.Certificate(t.Context(), system)
			again, errAgain := m.Certificate(t.Context(), system)
			end()
			if err != nil || errAgain != nil || again != second || second.Thumbprint() == first.Thumbprint() {
				t.Errorf("got %v, %v; want one certificate in memory that serves meanwhile", err, errAgain)
			}
			if after := w.content(t); after != before {
				t.Errorf("the file was %s\nand is %s", before, after)
			}
			if aside, _ := filepath.Glob(w.file() + ".*"); len(aside) != 0 {
				t.Errorf("it was put aside: %v", aside)
			}
			if !strings.Contains(w.log.String(), "could not be read") {
				t.Errorf("the log does not mention it:\n%s", w.log.String())
			}
			if c := w.certificate(t, w.start()); c.Thumbprint() != first.Thumbprint() {
				t.Error("the next start does not find the certificate")
			}
		})
	}
}

func TestAStateFileThatCouldNotBeReadIsTriedAgain(t *testing.T) {
	for name, fault := range unreadable {
		t.Run(name, func(t *testing.T) {
			inVirtualTime(t, func(t *testing.T, w *world) {
				first := w.certificate(t, w.start())
				end := fault(t, w.file())
				m := w.start()
				w.run(t, m)
				second, err := m.Certificate(t.Context(), system)
				end()
				must(t, err)
				if pass(2 * time.Minute); m.Current(system) != second {
					t.Error("the older certificate is in use again")
				}
				if c := w.certificate(t, w.start()); c.Thumbprint() != second.Thumbprint() || c.Thumbprint() == first.Thumbprint() {
					t.Error("the certificate was not stored once the file could be read")
				}
			})
		})
	}
}

// IMDS may have kept the certificate that Entra rejected, and the note of that is in the file
// alone.
func TestARejectionThatCouldNotBeReadHoldsAsSoonAsItCan(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		first := w.certificate(t, m)
		w.fail(errDown)
		if _, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate); !errors.Is(err, errDown) {
			t.Fatal(err)
		}
		w.fail(nil)
		w.answer = func(c *imds.Credential) { c.Certificate = first.Leaf.Raw }
		m = w.start()
		w.run(t, m)
		end := tooltest.WithoutDescriptors(t)
		_, err := m.Certificate(t.Context(), system)
		end()
		must(t, err) // nobody could know
		if pass(2 * time.Minute); m.Current(system) != nil {
			t.Error("the rejected certificate is still in use")
		}
		w.answer = nil
		if c := w.certificate(t, m); c.Thumbprint() == first.Thumbprint() {
			t.Error("the rejected certificate is in use again")
		}
	})
}

func TestARejectionWhileTheFileCannotBeReadIsNotLost(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		first := w.certificate(t, w.start())
		before := w.content(t)
		m := w.start()
		w.run(t, m)
		w.fail(errDown)
		end := tooltest.WithoutDescriptors(t)
		_, err := m.Replace(t.Context(), system, first, binding.ReasonCertificate)
		end()
		if !errors.Is(err, errDown) || w.content(t) != before {
			t.Errorf("got %v and %s", err, w.content(t))
		}
		pass(2 * time.Minute)
		w.fail(nil)
		if c := w.certificate(t, w.start()); c.Thumbprint() == first.Thumbprint() {
			t.Error("the rejected certificate is served after a restart")
		}
	})
}

// The file may be without use for another reason than the certificate that it says was rejected.
func TestTheNoteOfARejectionOutlivesAnUnusableCertificate(t *testing.T) {
	for name, spoil := range map[string]func(*world){
		"an endpoint that is not trusted": func(w *world) {
			w.tear(t, func(s string) string { return strings.Replace(s, "mtlsauth.microsoft.com", "mtlsauth.example.com", 1) })
		},
		"a certificate that has expired": func(w *world) { w.advance(20 * 24 * time.Hour) },
		"a certificate that is damaged": func(w *world) {
			w.tear(t, func(s string) string { return strings.Replace(s, `"certificate": "M`, `"certificate": "N`, 1) })
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.edit = func(c *x509.Certificate) { c.NotAfter, c.ExtraExtensions = w.now().Add(60*24*time.Hour), nil }
			m := w.start()
			first := w.certificate(t, m)
			w.edit = nil
			w.replace(t, m, first)
			spoil(w)
			w.answer = func(c *imds.Credential) { c.Certificate = first.Leaf.Raw }
			if c, err := w.start().Certificate(t.Context(), system); err == nil || !strings.Contains(err.Error(), "rejected") {
				t.Errorf("got %v, %v; want the rejected certificate refused", c, err)
			}
		})
	}
}

func TestAStateFileThatIsTooLongIsPutAside(t *testing.T) {
	w := newWorld(t)
	w.certificate(t, w.start())
	w.tear(t, func(s string) string { return s + strings.Repeat(" ", 64<<10) })
	w.certificate(t, w.start())
	if _, err := os.Stat(w.file() + ".torn-1"); err != nil || w.count() != 2 {
		t.Errorf("%v; %d issuances, want 2", err, w.count())
	}
}

// What the rejected certificate replaced may be the one in the file, because nothing could be
// written before.
func TestARejectionThatCannotBeWrittenDoesNotCostAnotherCertificate(t *testing.T) {
	w := newWorld(t)
	m := w.start()
	first := w.certificate(t, m)
	end := tooltest.WithoutDescriptors(t)
	second, err := m.Replace(t.Context(), system, first, binding.ReasonDoubt)
	w.metaErr = errDown
	_, down := m.Replace(t.Context(), system, second, binding.ReasonCertificate)
	end()
	if err != nil || !errors.Is(down, errDown) {
		t.Errorf("got %v, %v", err, down)
	}
	w.metaErr = nil
	if c := w.certificate(t, w.start()); c.Thumbprint() != first.Thumbprint() {
		t.Error("the certificate in the file is lost")
	}
}

func TestACertificateThatCouldNotBeWrittenIsStoredLater(t *testing.T) {
	inVirtualTime(t, func(t *testing.T, w *world) {
		m := w.start()
		w.run(t, m)
		must(t, os.Rename(w.dir, w.dir+".away"))
		c := w.certificate(t, m)
		must(t, os.Rename(w.dir+".away", w.dir))
		pass(2 * time.Minute)
		if again := w.certificate(t, w.start()); again.Thumbprint() != c.Thumbprint() || w.count() != 1 {
			t.Errorf("%d issuances, want 1", w.count())
		}
	})
}

package fleet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/fleet"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/report"
)

// yard is a directory with the evidence of machines: two, then the first one with another
// attestation key, and another one with the first one's binding key.
type yard struct {
	dir      string
	machines [4]*at.Machine
	cfg      fleet.Config
}

var (
	machinesOnce sync.Once
	theMachines  [4]*at.Machine
)

// machines are slow to make; tests only read them.
func machines(t testing.TB) [4]*at.Machine {
	t.Helper()
	machinesOnce.Do(func() {
		amd, ca, keys := at.NewAMD(t), at.NewCA(t), at.NewKeys(t)
		more := at.NewKeys(t)
		theMachines = [4]*at.Machine{
			at.NewMachine(t, amd, ca, keys),
			at.NewMachine(t, amd, ca, at.Keys{AK: keys.Other, Key: more.Key, Other: keys.AK}),
			at.NewMachine(t, amd, ca, at.Keys{AK: more.AK, Key: more.Other, Other: keys.AK}),
			at.NewMachine(t, amd, ca, at.Keys{AK: more.AK, Key: keys.Key, Other: keys.AK}),
		}
		for i, id := range map[int]string{1: "11f8bc30-774e-4290-8e7a-535f3b672aee", 3: "33f8bc30-774e-4290-8e7a-535f3b672aee"} {
			m := theMachines[i]
			m.Claims = bytes.ReplaceAll(m.Claims, []byte(at.VMID), []byte(id))
		}
	})
	return theMachines
}

const audience = "https://verifier.example"

func nonce(n byte) []byte { return bytes.Repeat([]byte{n}, 32) }

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{dir: t.TempDir(), machines: machines(t)}
	y.cfg = fleet.Config{
		Dir: y.dir, Workers: 2,
		Question:  report.Question{Rules: attest.DefaultPolicy(), Anchors: y.machines[0].Anchors(), At: at.Epoch()},
		Challenge: fleet.FromFiles(filepath.Join(y.dir, "{name}.nonce"), attest.Challenge{Audience: audience}),
	}
	return y
}

// answers puts the evidence of a machine, and the nonce that it was asked with, into the directory.
func (y *yard) answers(t *testing.T, name string, machine int, n byte) {
	t.Helper()
	data, err := y.machines[machine].Evidence(t, attest.Challenge{Nonce: nonce(n), Audience: audience}).Encode()
	if err != nil {
		t.Fatal(err)
	}
	y.write(t, name+".json", data)
	y.write(t, name+".nonce", []byte(hex.EncodeToString(nonce(n))+"\n"))
}

func (y *yard) write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(y.dir, name), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// rows are what comes of each file, in order: its name and a word.
func (y *yard) rows(t *testing.T) (string, fleet.Summary) {
	t.Helper()
	var rows []string
	sum, err := fleet.Verify(t.Context(), y.cfg, func(r fleet.Row) error {
		word := "refused"
		switch {
		case r.Verified():
			word = "verified"
		case r.Err != nil:
			word = "unread"
		case r.Twin != "":
			word = "twin of " + r.Twin
		}
		rows = append(rows, strings.TrimSuffix(r.Name, fleet.Suffix)+" "+word)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(rows, ", "), sum
}

func TestAFleetIsVerifiedIfEachMachineIs(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *yard)
		rows   string
		ok     bool
	}{
		{"two machines", func(*testing.T, *yard) {}, "a verified, b verified", true},
		{"other files do not count", func(t *testing.T, y *yard) {
			y.write(t, "README", nil)
			y.write(t, ".hidden.json", nil)
		}, "a verified, b verified", true},
		{"an old answer", func(t *testing.T, y *yard) { y.write(t, "b.nonce", []byte(hex.EncodeToString(nonce(9)))) }, "a verified, b refused", false},
		{"no nonce", func(t *testing.T, y *yard) { _ = os.Remove(filepath.Join(y.dir, "a.nonce")) }, "a unread, b verified", false},
		{"an empty nonce", func(t *testing.T, y *yard) { y.write(t, "a.nonce", nil) }, "a unread, b verified", false},
		{"an empty file", func(t *testing.T, y *yard) {
			y.write(t, "c.json", nil)
			y.write(t, "c.nonce", []byte(hex.EncodeToString(nonce(3))))
		}, "a verified, b verified, c refused", false},
		{"a pipe", func(t *testing.T, y *yard) { _ = syscall.Mkfifo(filepath.Join(y.dir, "c.json"), 0o600) }, "a verified, b verified, c unread", false},
		{"a directory", func(t *testing.T, y *yard) { _ = os.Mkdir(filepath.Join(y.dir, "c.json"), 0o700) }, "a verified, b verified, c unread", false},
		{"one machine under two names", func(t *testing.T, y *yard) { y.answers(t, "c", 0, 3) }, "a verified, b verified, c twin of a.json", false},
		{"one machine whose attestation key is another one now", func(t *testing.T, y *yard) { y.answers(t, "c", 2, 3) }, "a verified, b verified, c twin of a.json", false},
		{"one binding key on two machines", func(t *testing.T, y *yard) { y.answers(t, "c", 3, 3) }, "a verified, b verified, c twin of a.json", false},
		{"two keys of one machine, where that is allowed", func(t *testing.T, y *yard) {
			y.answers(t, "c", 0, 3)
			y.cfg.SameMachine = true
		}, "a verified, b verified, c verified", true},
		{"a machine that has not answered", func(_ *testing.T, y *yard) { y.cfg.Expected = []string{"b.json", "c.json"} }, "a verified, b verified, c unread", false},
		{"nothing to hold it to", func(_ *testing.T, y *yard) {
			y.cfg.Challenge = func(string) (*attest.Challenge, error) { return nil, nil }
		}, "a refused, b refused", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			y := newYard(t)
			y.answers(t, "a", 0, 1)
			y.answers(t, "b", 1, 2)
			tt.change(t, y)
			rows, sum := y.rows(t)
			if rows != tt.rows || sum.OK != tt.ok {
				t.Errorf("%s (ok: %v), want %s (ok: %v)", rows, sum.OK, tt.rows, tt.ok)
			}
			if sum.Files != sum.Verified+sum.Rejected+sum.Missing+sum.Failed+sum.Twins {
				t.Errorf("%+v does not add up", sum)
			}
		})
	}
}

func TestAnEmptyFleetIsNotVerified(t *testing.T) {
	t.Parallel()
	if rows, sum := newYard(t).rows(t); rows != "" || sum.OK {
		t.Errorf("%q, %+v", rows, sum)
	}
	_, err := fleet.Verify(t.Context(), fleet.Config{Dir: "gone", Workers: 1}, nil)
	if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func TestAFleetEndsEarly(t *testing.T) {
	t.Parallel()
	y := newYard(t)
	for i := range 100 {
		y.write(t, fmt.Sprintf("%03d.json", i), []byte("{}"))
	}
	stop := errors.New("no room")
	if sum, err := fleet.Verify(t.Context(), y.cfg, func(fleet.Row) error { return stop }); !errors.Is(err, stop) || sum.OK {
		t.Errorf("%+v, %v", sum, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	sum, err := fleet.Verify(ctx, y.cfg, func(fleet.Row) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) || sum.OK {
		t.Errorf("%+v, %v", sum, err)
	}
}

func TestAListOfNonces(t *testing.T) {
	t.Parallel()
	base := attest.Challenge{Audience: audience}
	one, two := strings.Repeat("01", 32), strings.Repeat("02", 32)
	list, err := fleet.ReadList(strings.NewReader("# name nonce\n\n a "+one+"\nb.json\t"+strings.ToUpper(two)+"\n"), base)
	if err != nil {
		t.Fatal(err)
	}
	ch, err := list.Challenge("b.json")
	if err != nil || !bytes.Equal(ch.Nonce, nonce(2)) || ch.Audience != audience || len(list.Names()) != 2 {
		t.Errorf("%+v, %v, %q", ch, err, list.Names())
	}
	if ch, err := list.Challenge("c.json"); err == nil {
		t.Errorf("c has %+v", ch)
	}
	for _, text := range []string{
		"a", "a " + one + " x", "a 0102", "a xyz", "a " + one + "\na.json " + two, "a " + one + "\nb " + one, "../a " + one, "a " + strings.Repeat("0", 1<<20),
	} {
		if _, err := fleet.ReadList(strings.NewReader(text), base); err == nil {
			t.Errorf("%.80q is accepted", text)
		}
	}
	if _, err := fleet.ReadList(strings.NewReader("a "+one), attest.Challenge{}); err == nil {
		t.Error("no audience is accepted")
	}
}

// FuzzReadList: of an accepted list, no two machines have one nonce.
func FuzzReadList(f *testing.F) {
	one := strings.Repeat("01", 16)
	for _, seed := range []string{"", "a " + one, "a " + one + "\nb " + one, "#\n\n", "a\x00b " + one} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := fleet.ReadList(bytes.NewReader(data), attest.Challenge{Audience: audience})
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, name := range list.Names() {
			ch, err := list.Challenge(name)
			if err != nil || seen[string(ch.Nonce)] || ch.Validate() != nil {
				t.Fatalf("%q: %+v, %v", name, ch, err)
			}
			seen[string(ch.Nonce)] = true
		}
	})
}

// A machine that got a nonce and does not answer must not go unnoticed, and two machines with one
// nonce can answer for each other.
func TestNoncesSayWhoIsAwaited(t *testing.T) {
	t.Parallel()
	write := func(dir string, files map[string]string) {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	dir := t.TempDir()
	write(dir, map[string]string{"a.nonce": "01\n", "b.nonce": "02", "b.json": "{}", "other": "01", ".nonce": "03"})
	names, err := fleet.Awaited(filepath.Join(dir, "{name}.nonce"))
	if err != nil || strings.Join(names, " ") != "a.json b.json" {
		t.Errorf("%q %v", names, err)
	}
	for _, template := range []string{"{name}/nonce", "{name}{name}", "none/{name}", "nonce"} {
		if names, err := fleet.Awaited(filepath.Join(dir, template)); err == nil {
			t.Errorf("%s: %q", template, names)
		}
	}
	write(dir, map[string]string{"c.nonce": "01"})
	if names, err := fleet.Awaited(filepath.Join(dir, "{name}.nonce")); err == nil {
		t.Errorf("a nonce that is there twice: %q", names)
	}
}

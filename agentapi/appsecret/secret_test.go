package appsecret_test

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/agentapi/appsecret"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/statefile"
)

const process = "4f3a/4711/1234"

// watched is a process that runs until it is closed, or somebody ends it.
type watched struct{ ended bool }

func (w *watched) Running() bool { return !w.ended }

func (w *watched) Close() error {
	w.ended = true
	return nil
}

// everything finds each process.
func everything(string) (appsecret.Watched, bool) { return &watched{}, true }

// keeper is one whose processes all run, unless they are among the ended.
func keeper(t testing.TB, boot string, ended ...string) *appsecret.Keeper {
	t.Helper()
	k, err := appsecret.New(secret.New(strings.Repeat("k", 32)), boot, func(p string) (appsecret.Watched, bool) {
		if slices.Contains(ended, p) {
			return nil, false
		}
		return &watched{}, true
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func mint(t testing.TB, k *appsecret.Keeper, h appsecret.Holder) string {
	t.Helper()
	made, err := k.Mint(h)
	if err != nil {
		t.Fatal(err)
	}
	return made.Reveal()
}

func TestASecretIsForItsHolderAlone(t *testing.T) {
	inUnit := appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, CgroupID: 77, Identity: "vm", Process: process}
	anywhere, unit := inUnit, inUnit
	anywhere.CgroupID = 0
	unit.Lifetime, unit.Process = appsecret.Unit, ""
	tests := []struct {
		name   string
		holder appsecret.Holder
		by     appsecret.Presenter
		ended  string
		want   error
	}{
		{"its holder", inUnit, appsecret.Presenter{UID: 1000, CgroupID: 77}, "", nil},
		{"another user in the same unit", inUnit, appsecret.Presenter{UID: 1001, CgroupID: 77}, "", appsecret.ErrUser},
		{"root", inUnit, appsecret.Presenter{UID: 0, CgroupID: 77}, "", appsecret.ErrUser},
		{"the same user in another unit", inUnit, appsecret.Presenter{UID: 1000, CgroupID: 78}, "", appsecret.ErrUnit},
		{"the same user in a unit that the kernel does not tell", inUnit, appsecret.Presenter{UID: 1000}, "", nil},
		{"its holder, whose unit was not known", anywhere, appsecret.Presenter{UID: 1000, CgroupID: 78}, "", nil},
		{"its process has ended", inUnit, appsecret.Presenter{UID: 1000, CgroupID: 77}, process, appsecret.ErrEnded},
		{"another process has ended", inUnit, appsecret.Presenter{UID: 1000, CgroupID: 77}, "4f3a/4711/9999", nil},
		{"a process of the unit", unit, appsecret.Presenter{UID: 1000, CgroupID: 77}, "", nil},
		{"the unit after a restart of it", unit, appsecret.Presenter{UID: 1000, CgroupID: 79}, "", appsecret.ErrUnit},
		{"a secret of a unit where the kernel does not tell the unit", unit, appsecret.Presenter{UID: 1000}, "", appsecret.ErrUnit},
		{"another user in the unit", unit, appsecret.Presenter{UID: 1001, CgroupID: 77}, "", appsecret.ErrUser},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := keeper(t, "boot", tt.ended)
			identity, err := k.Check(mint(t, k, tt.holder), tt.by)
			if !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if (identity == "vm") != (err == nil) {
				t.Errorf("identity %q with %v", identity, err)
			}
		})
	}
}

// A secret that is kept ends with its process all the same.
func TestAnOpenSecretIsLookedAtEachTime(t *testing.T) {
	process := &watched{}
	k, err := appsecret.New(secret.New(strings.Repeat("k", 32)), "boot", func(string) (appsecret.Watched, bool) { return process, true })
	if err != nil {
		t.Fatal(err)
	}
	text := mint(t, k, appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: "p"})
	shown, err := k.Open(text)
	if err != nil {
		t.Fatal(err)
	}
	if !shown.Is(text) || shown.Is(text+"A") || shown.Is("") {
		t.Error("it takes another text for its own, or its own for another")
	}
	for range 2 {
		if identity, err := shown.Check(appsecret.Presenter{UID: 1000}); identity != "vm" || err != nil {
			t.Errorf("while its process runs: %q, %v", identity, err)
		}
		if _, err := shown.Check(appsecret.Presenter{UID: 1001}); !errors.Is(err, appsecret.ErrUser) {
			t.Errorf("shown by another user: %v", err)
		}
	}
	process.ended = true
	if _, err := shown.Check(appsecret.Presenter{UID: 1000}); !errors.Is(err, appsecret.ErrEnded) {
		t.Errorf("after its process: %v", err)
	}
	process.ended = false
	if err := shown.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := shown.Check(appsecret.Presenter{UID: 1000}); !errors.Is(err, appsecret.ErrEnded) {
		t.Errorf("after it was closed: %v", err)
	}
}

// machine has processes, which it counts while they are watched.
type machine struct {
	found, watched int
	ended          map[string]bool
}

type watchedOn struct {
	on   *machine
	name string
}

func (m *machine) watch(name string) (appsecret.Watched, bool) {
	m.found++
	m.watched++
	return watchedOn{m, name}, true
}

func (p watchedOn) Running() bool { return !p.on.ended[p.name] }

func (p watchedOn) Close() error {
	p.on.watched--
	return nil
}

// A program may make a connection for each request: its process is not looked for each time.
func TestAProcessIsWatchedBetweenConnections(t *testing.T) {
	m := &machine{ended: map[string]bool{}}
	k, err := appsecret.New(secret.New(strings.Repeat("k", 32)), "boot", m.watch)
	if err != nil {
		t.Fatal(err)
	}
	by := appsecret.Presenter{UID: 1000}
	text := mint(t, k, appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: "p"})
	show := func(text string) *appsecret.Shown {
		t.Helper()
		shown, err := k.Open(text)
		if err != nil {
			t.Fatal(err)
		}
		return shown
	}
	for range 3 {
		shown := show(text)
		if identity, err := shown.Check(by); identity != "vm" || err != nil {
			t.Errorf("%q, %v", identity, err)
		}
		if _, err := shown.Check(appsecret.Presenter{UID: 1001}); !errors.Is(err, appsecret.ErrUser) {
			t.Errorf("shown by another user: %v", err)
		}
		for range 2 {
			_ = shown.Close()
		}
		if _, err := shown.Check(by); !errors.Is(err, appsecret.ErrEnded) {
			t.Errorf("after it was closed: %v", err)
		}
	}
	if m.found != 1 || m.watched != 1 {
		t.Errorf("its process was looked for %d times, and is watched %d times; want once", m.found, m.watched)
	}

	// Two connections at once: one of them is enough to go on with.
	first, second := show(text), show(text)
	_, _ = first.Close(), second.Close()
	if m.found != 2 || m.watched != 1 {
		t.Errorf("two at once: looked for %d times, watched %d times", m.found, m.watched)
	}

	// Its end is seen by the next who shows the secret, and it is not watched any more then.
	m.ended["p"] = true
	last := show(text)
	if _, err := last.Check(by); !errors.Is(err, appsecret.ErrEnded) {
		t.Errorf("after its process: %v", err)
	}
	if _ = last.Close(); m.watched != 0 {
		t.Errorf("%d processes that have ended are watched", m.watched)
	}

	// There is a bound, and an end.
	for i := range 1000 {
		_ = show(mint(t, k, appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: fmt.Sprint(i)})).Close()
	}
	if m.watched > 64 || m.watched < 32 {
		t.Errorf("%d processes are watched", m.watched)
	}
	open := show(text)
	if _ = k.Close(); m.watched != 1 {
		t.Errorf("%d processes are watched after the end", m.watched)
	}
	if _ = open.Close(); m.watched != 0 {
		t.Errorf("%d processes are watched in the end", m.watched)
	}
}

func TestATextThatIsNoSecretOfThisAgentIsRefused(t *testing.T) {
	k := keeper(t, "boot")
	holder := appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: process}
	by := appsecret.Presenter{UID: 1000}
	good := mint(t, k, holder)
	if _, err := k.Check(good, by); err != nil {
		t.Fatal(err)
	}
	otherKey, err := appsecret.New(secret.New(strings.Repeat("K", 32)), "boot", everything)
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]string{
		"nothing":                        "",
		"the prefix alone":               appsecret.Prefix,
		"a secret without its prefix":    strings.TrimPrefix(good, appsecret.Prefix),
		"another prefix":                 strings.Replace(good, "1_", "2_", 1),
		"one of another key":             mint(t, otherKey, holder),
		"one of the boot before":         mint(t, keeper(t, "before"), holder),
		"one of a boot with a like name": mint(t, keeper(t, "boot\x00"), holder),
		"one byte less":                  good[:len(good)-1],
		"one byte more":                  good + "A",
		"padding":                        good + "=",
		"a new line":                     good + "\n",
		"a space before":                 " " + good,
		"upper case":                     strings.ToUpper(good),
		"a long text":                    appsecret.Prefix + strings.Repeat("A", 1<<20),
		"two in one":                     good + good,
	}
	for name, text := range tests {
		if identity, err := k.Check(text, by); !errors.Is(err, appsecret.ErrUnknown) || identity != "" {
			t.Errorf("%s: %q, %v", name, identity, err)
		}
	}
	t.Run("each single bit counts", func(t *testing.T) {
		data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(good, appsecret.Prefix))
		if err != nil {
			t.Fatal(err)
		}
		for i := range len(data) * 8 {
			data[i/8] ^= 1 << (i % 8)
			text := appsecret.Prefix + base64.RawURLEncoding.EncodeToString(data)
			if _, err := k.Check(text, by); !errors.Is(err, appsecret.ErrUnknown) {
				t.Errorf("bit %d: %v", i, err)
			}
			data[i/8] ^= 1 << (i % 8)
		}
	})
	t.Run("each single letter counts", func(t *testing.T) {
		for i := range len(good) {
			for _, letter := range "AB" {
				text := good[:i] + string(letter) + good[i+1:]
				if _, err := k.Check(text, by); (err == nil) != (text == good) {
					t.Errorf("letter %d as %c: %v", i, letter, err)
				}
			}
		}
	})
}

func TestTwoSecretsOfOneHolderDiffer(t *testing.T) {
	k := keeper(t, "boot")
	holder := appsecret.Holder{Lifetime: appsecret.Process, UID: 1, Identity: "vm", Process: process}
	if first, second := mint(t, k, holder), mint(t, k, holder); first == second {
		t.Error("they are the same")
	}
}

func TestNoSecretIsMadeForAnIncompleteHolder(t *testing.T) {
	k := keeper(t, "boot")
	good := appsecret.Holder{Lifetime: appsecret.Process, UID: 1, CgroupID: 7, Identity: "vm", Process: process}
	tests := map[string]func(*appsecret.Holder){
		"no lifetime":                       func(h *appsecret.Holder) { h.Lifetime = 0 },
		"a lifetime that is none":           func(h *appsecret.Holder) { h.Lifetime = 3 },
		"a process that is not known":       func(h *appsecret.Holder) { h.Process = "" },
		"no identity":                       func(h *appsecret.Holder) { h.Identity = "" },
		"a long identity":                   func(h *appsecret.Holder) { h.Identity = strings.Repeat("i", 129) },
		"a long process":                    func(h *appsecret.Holder) { h.Process = strings.Repeat("p", 129) },
		"a unit that is not known":          func(h *appsecret.Holder) { h.Lifetime, h.CgroupID = appsecret.Unit, 0 },
		"a unit where all are in one group": func(h *appsecret.Holder) { h.Lifetime, h.CgroupID = appsecret.Unit, 1 },
	}
	for name, change := range tests {
		h := good
		change(&h)
		if made, err := k.Mint(h); err == nil || !made.IsZero() {
			t.Errorf("%s: one is made", name)
		}
	}
	for name, h := range map[string]appsecret.Holder{
		"the longest": {Lifetime: appsecret.Process, UID: 1<<32 - 1, CgroupID: 1<<64 - 1, Identity: strings.Repeat("i", 128), Process: strings.Repeat("p", 128)},
	} {
		if _, err := k.Check(mint(t, k, h), appsecret.Presenter{UID: h.UID, CgroupID: h.CgroupID}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNewWantsAllItNeeds(t *testing.T) {
	key, runs := secret.New(strings.Repeat("k", 32)), everything
	for name, fails := range map[string]func() (*appsecret.Keeper, error){
		"a short key":      func() (*appsecret.Keeper, error) { return appsecret.New(secret.New("short"), "boot", runs) },
		"no key":           func() (*appsecret.Keeper, error) { return appsecret.New(secret.String{}, "boot", runs) },
		"no boot":          func() (*appsecret.Keeper, error) { return appsecret.New(key, "", runs) },
		"no way to look":   func() (*appsecret.Keeper, error) { return appsecret.New(key, "boot", nil) },
		"nothing of these": func() (*appsecret.Keeper, error) { return appsecret.New(secret.String{}, "", nil) },
	} {
		if _, err := fails(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// stateDir is a directory such as the agent has.
func stateDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "state")
	if err := statefile.EnsureDir(dir); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestTheKeyOutlivesARestart(t *testing.T) {
	dir := stateDir(t)
	holder := appsecret.Holder{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: process}
	by, runs := appsecret.Presenter{UID: 1000}, everything
	open := func(log io.Writer) *appsecret.Keeper {
		k, err := appsecret.Open(statefile.In(dir), slog.New(slog.NewTextHandler(log, nil)), runs)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	var log strings.Builder
	made := mint(t, open(&log), holder)
	if !strings.Contains(log.String(), "was made") {
		t.Errorf("log %q", log.String())
	}
	log.Reset()
	if _, err := open(&log).Check(made, by); err != nil || log.Len() > 0 {
		t.Errorf("after a restart: %v, log %q", err, log.String())
	}
	path := filepath.Join(dir, appsecret.KeyFile)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info.Mode(), err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}

	for name, content := range map[string][]byte{
		"empty": {}, "half of it": whole[:len(whole)/2], "without its end": whole[:len(whole)-1], "more than it": append(whole, "00\n"...),
		"zeros": make([]byte, len(whole)), "another version": []byte(strings.Replace(string(whole), "version 1", "version 2", 1)), "huge": make([]byte, 1<<20),
	} {
		t.Run("a damaged file is replaced: "+name, func(t *testing.T) {
			if err := os.WriteFile(path, content, 0o600); err != nil {
				t.Fatal(err)
			}
			var log strings.Builder
			k := open(&log)
			if _, err := k.Check(made, by); !errors.Is(err, appsecret.ErrUnknown) {
				t.Errorf("a secret of the key before: %v", err)
			}
			if !strings.Contains(log.String(), "damaged") {
				t.Errorf("log %q", log.String())
			}
			again := mint(t, k, holder)
			if _, err := open(io.Discard).Check(again, by); err != nil {
				t.Errorf("the new key: %v", err)
			}
		})
	}
	t.Run("a file that others can read is not taken, and not replaced", func(t *testing.T) {
		if err := os.WriteFile(path, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := appsecret.Open(statefile.In(dir), slog.New(slog.DiscardHandler), runs); err == nil {
			t.Error("no error")
		}
		if now, err := os.ReadFile(path); err != nil || string(now) != string(whole) {
			t.Errorf("%q, %v", now, err)
		}
	})
}

func TestAKeeperShowsNothingOfItsKey(t *testing.T) {
	k := keeper(t, "boot")
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x"} {
		if text := fmt.Sprintf(verb, *k); strings.Contains(text, "kkkk") || strings.Contains(text, "6b6b") {
			t.Errorf("%s: %s", verb, text)
		}
	}
}

// Whatever text is shown, it is refused, or is just what the agent writes for what it says.
func FuzzCheck(f *testing.F) {
	k := keeper(f, "boot")
	for _, h := range []appsecret.Holder{
		{Lifetime: appsecret.Process, UID: 1000, Identity: "vm", Process: process},
		{Lifetime: appsecret.Unit, UID: 1000, CgroupID: 77, Identity: "shop"},
	} {
		text := mint(f, k, h)
		f.Add(text)
		f.Add(text[:len(text)-3])
	}
	f.Add("")
	f.Add(appsecret.Prefix)
	f.Add(appsecret.Prefix + strings.Repeat("_", 100))
	f.Fuzz(func(t *testing.T, text string) {
		identity, err := k.Check(text, appsecret.Presenter{UID: 1000, CgroupID: 77})
		if (identity != "") != (err == nil) {
			t.Errorf("%q: %q, %v", text, identity, err)
		}
		if err != nil {
			return
		}
		data, err := base64.RawURLEncoding.DecodeString(strings.TrimPrefix(text, appsecret.Prefix))
		if err != nil || k.Text(data[:len(data)-32]) != text {
			t.Errorf("%q is taken for another text (%v)", text, err)
		}
	})
}

// What a secret says is read back as it was written, and nothing else is read.
func FuzzDecode(f *testing.F) {
	f.Add(appsecret.Encode(appsecret.Holder{Lifetime: appsecret.Process, UID: 7, Identity: "vm", Process: process}))
	f.Add([]byte{})
	f.Add([]byte("\x02aaaabbbbbbbbrrrrrrrrrrrrrrrr\x01i\x00"))
	f.Add([]byte("\x01aaaabbbbbbbbrrrrrrrrrrrrrrrr\xffi\x00"))
	f.Fuzz(func(t *testing.T, said []byte) {
		h, err := appsecret.Decode(said)
		if err != nil {
			return
		}
		if again := appsecret.EncodeWith(h, said); string(again) != string(said) {
			t.Errorf("%x is read as %+v, which is %x", said, h, again)
		}
	})
}

package statedir_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/tpm"
)

// Another storage root in place of the TPM's is noticed from the second start on.
func TestAnotherStorageRootIsNotAccepted(t *testing.T) {
	s := agenttest.New(t)
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	pin, err := os.ReadFile(s.StateFile("storage-root"))
	if err != nil || len(pin) != 2*(2+32)+1 {
		t.Fatalf("the storage root was not noted: %q, %v", pin, err)
	}
	if err := s.TryOpen(); err != nil {
		t.Fatalf("the same root: %v", err)
	}
	other := append([]byte(nil), pin...)
	if other[10] = '0'; pin[10] == '0' { // a digit still: what is damaged is another story
		other[10] = '1'
	}
	if err := os.WriteFile(s.StateFile("storage-root"), other, 0o600); err != nil {
		t.Fatal(err)
	}
	err = s.TryOpen()
	if !errors.Is(err, tpm.ErrStorageRoot) || !strings.Contains(err.Error(), s.StateFile("storage-root")) {
		t.Errorf("got %v, want a refusal that names the file", err)
	}
}

// What cannot be read may be in order: the root that the TPM shows is not believed, and the note
// stays.
func TestANoteOfTheStorageRootThatCannotBeReadIsKept(t *testing.T) {
	s := agenttest.New(t)
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	note := s.StateFile("storage-root")
	before, err := os.ReadFile(note)
	if err != nil {
		t.Fatal(err)
	}
	for name, fault := range map[string]struct{ begin, end func() error }{
		"it is open to others": {
			func() error { return os.Chmod(note, 0o644) }, // #nosec G302 -- the case under test
			func() error { return os.Chmod(note, 0o600) },
		},
		"a link is in its place": {
			func() error { return errors.Join(os.Rename(note, note+".away"), os.Symlink(note+".away", note)) },
			func() error { return os.Rename(note+".away", note) },
		},
		"a directory is in its place": {
			func() error { return errors.Join(os.Rename(note, note+".away"), os.Mkdir(note, 0o700)) },
			func() error { return errors.Join(os.Remove(note), os.Rename(note+".away", note)) },
		},
	} {
		if err := fault.begin(); err != nil {
			t.Fatal(err)
		}
		opened := s.TryOpen()
		if err := fault.end(); err != nil {
			t.Fatal(err)
		}
		if after, err := os.ReadFile(note); opened == nil || string(after) != string(before) {
			t.Errorf("%s: got %v, and the note is %q (%v)", name, opened, after, err)
		}
	}
	if err := s.TryOpen(); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func TestATornNoteOfTheStorageRootStopsNothing(t *testing.T) {
	s := agenttest.New(t)
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"", "\n", "000b", "000b0123456789abcdef", "00040123", "no hexadecimal\n", strings.Repeat("0", 300)} {
		if err := os.WriteFile(s.StateFile("storage-root"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.TryOpen(); err != nil {
			t.Errorf("%q: %v", content, err)
		}
	}
	if !strings.Contains(s.Log.String(), "put aside") {
		t.Error("nobody was told")
	}
	if _, err := os.Stat(s.StateFile("storage-root.torn-1")); err != nil {
		t.Error(err)
	}
}

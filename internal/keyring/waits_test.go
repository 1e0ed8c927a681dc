package keyring_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/internal/waiting"
)

func names(waits []waiting.Wait) (list []string) {
	for _, w := range waits {
		list = append(list, w.What)
	}
	return list
}

// A command that waits for another one's lock, or for the TPM, can say so.
func TestCommandsNameTheirWaits(t *testing.T) {
	s := agenttest.New(t)
	board := waiting.New(waiting.Config{})
	keys, err := keyring.Open(s.Config, statedir.Options{Waits: board})
	if err != nil {
		t.Fatal(err)
	}
	defer keys.Close()
	if _, err := keys.Create(t.Context(), "first", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	if left := board.Now(); len(left) != 0 {
		t.Errorf("nobody waits any more, and the board has %+v", left)
	}
	lock, err := os.Open(filepath.Join(s.Config.StateDir, "keys", ".lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	made := make(chan error, 1)
	go func() {
		_, err := keys.Create(t.Context(), "second", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
		made <- err
	}()
	agenttest.SawWait(t, "the lock of the keys", func() []string { return names(board.Now()) })
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	if err := <-made; err != nil {
		t.Error(err)
	}
}

package keystore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/keyagent/keyagent/internal/statefile"
	"github.com/keyagent/keyagent/internal/waiting"
)

// lockPause is the time between two attempts to take the lock, which is held for a few writes and a
// TPM command.
const lockPause = 20 * time.Millisecond

const lockFile = ".lock"

// lock keeps other processes, and other goroutines of this one, from changing keys until unlock.
// The kernel releases the lock of a process that dies. The file is never removed: else two
// processes could hold locks on two files of that name.
func (s *Store) lock(ctx context.Context) (unlock func(), err error) {
	if err := statefile.EnsureDir(s.dir); err != nil {
		return nil, err
	}
	path := filepath.Join(s.dir, lockFile)
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o600) // #nosec G304 -- ours
	if err != nil {
		return nil, fmt.Errorf("locking the keys: %w", err)
	}
	defer s.waiting("the lock of the keys, which another process or request holds that changes them")()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // #nosec G115 -- a descriptor fits
		if err == nil {
			return func() { _ = f.Close() }, nil // closing unlocks (flock(2))
		}
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = waiting.Sleep(ctx, lockPause)
		}
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("waiting for another process that changes the keys (%s): %w", path, err), f.Close())
		}
	}
}

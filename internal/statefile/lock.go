package statefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// holderFile names the process that has the lock. It is a note: what it says is believed only
	// while the lock is held.
	holderFile     = "agent.pid"
	maxHolderBytes = 32
)

// InUseError says that another process has the lock of a state directory.
type InUseError struct {
	Dir string
	PID int // of that process, as it wrote itself; 0 if that is not known
}

func (e *InUseError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("another agent uses the state directory %q", e.Dir)
	}
	return fmt.Sprintf("another agent, process %d, uses the state directory %q", e.PID, e.Dir)
}

// Hint says what to do about it.
func (e *InUseError) Hint() string {
	return "one agent serves all programs of the machine: use that one, or stop it first; an agent for something else needs a state_dir and a socket of its own"
}

// Lock takes the lock of a state directory that [EnsureDir] has accepted, or fails at once with an
// [*InUseError]. It is held until unlock, or until the process ends, however it ends.
//
// The directory itself is locked (flock(2)), by whatever path it is reached: there is no file that
// could be left behind, or removed while the lock is held. Processes that do not ask for the lock,
// such as commands beside the agent, are not kept out.
func Lock(dir string) (unlock func() error, err error) {
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0) // #nosec G304 -- the operator's choice
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	err = flock(d)
	note := filepath.Join(dir, holderFile)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, errors.Join(&InUseError{Dir: dir, PID: holder(note)}, d.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("locking the state directory %q: %w", dir, err), d.Close())
	}
	// The note is not needed; a full disk must not keep the agent from starting.
	if err := writeNote(note, []byte(strconv.Itoa(os.Getpid())+"\n")); err != nil {
		_ = os.Remove(note)
	}
	return func() error {
		if err := os.Remove(note); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("unlocking the state directory: %w", err), d.Close())
		}
		return d.Close()
	}, nil
}

// writeNote replaces a file in one step, and does not wait for the disk: after a power cut, the
// process that the note named is gone, so the note may be empty then. Syncing it would cost each
// start 20 ms and more.
func writeNote(path string, data []byte) error {
	temp, err := createPrivate(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	_, err = temp.Write(data)
	if err = errors.Join(err, temp.Close()); err == nil {
		err = os.Rename(temp.Name(), path)
	}
	if err != nil {
		_ = os.Remove(temp.Name())
	}
	return err
}

// Holder returns who has the lock of a state directory; nil if nobody has it, or that cannot be
// found out. It changes nothing.
func Holder(dir string) *InUseError {
	note := filepath.Join(dir, holderFile)
	if holder(note) == 0 {
		return nil // without a process to name, an agent that starts now is not to be disturbed
	}
	d, err := os.OpenFile(dir, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NOFOLLOW, 0) // #nosec G304 -- the operator's choice
	if err != nil {
		return nil
	}
	defer d.Close()
	if !errors.Is(tryFlock(d, unix.LOCK_SH), unix.EWOULDBLOCK) {
		return nil
	}
	return &InUseError{Dir: dir, PID: holder(note)}
}

// flock takes the lock of an open file, or fails at once.
func flock(f *os.File) error { return tryFlock(f, unix.LOCK_EX) }

func tryFlock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB) // #nosec G115 -- a descriptor fits
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// holder reads the PID of the lock's holder; 0 if the note does not have it, or names a process
// that is gone: the holder has not written its own yet.
func holder(note string) int {
	text, err := Read(note, maxHolderBytes)
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 || errors.Is(unix.Kill(pid, 0), unix.ESRCH) {
		return 0
	}
	return pid
}

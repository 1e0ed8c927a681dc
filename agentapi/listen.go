package agentapi

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/owned"
)

// ErrInUse is wrapped by errors of [Listen] when another process answers at the socket.
var ErrInUse = errors.New("another agent is listening there")

const (
	// maxSocketPathBytes is what fits into sockaddr_un beside its final NUL.
	maxSocketPathBytes = 107
	dirMode            = 0o755
	lockMode           = 0o600
	probeTimeout       = time.Second
)

// Listen opens the agent's socket at an absolute path, with mode as its permissions. They decide
// who can connect; the policy decides what each caller may have. The directory is made if only it
// is missing. It must be root's or the agent's own and nobody else may write to it, or put another
// directory in its place: not /tmp, but one below it will do.
//
// A socket that an agent left behind when it was killed is replaced; one that somebody answers at
// is not, and gives [ErrInUse]. A lock at path + ".lock" is held until the listener is closed, so
// that of two agents that start together one fails. Closing the listener removes the socket.
func Listen(path string, mode fs.FileMode) (net.Listener, error) {
	claim, err := ClaimSocket(path)
	if err != nil {
		return nil, err
	}
	ln, err := claim.Listen(mode)
	if err != nil {
		return nil, errors.Join(err, claim.Close())
	}
	return ln, nil
}

// A Claim is a socket that is this process' own and is not there yet: no other agent gets it, and
// no caller finds an agent that cannot answer. It is made by [ClaimSocket]. Not safe for concurrent
// use.
type Claim struct {
	path string
	lock *os.File // nil: it was given to a listener, or let go of
}

// ClaimSocket does the part of [Listen] that other processes and files can make fail, and opens no
// socket.
func ClaimSocket(path string) (*Claim, error) {
	lock, err := claim(path)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's socket %s: %w", path, err)
	}
	return &Claim{path, lock}, nil
}

func claim(path string) (*os.File, error) {
	if err := checkSocketPath(path); err != nil {
		return nil, err
	}
	if err := prepareDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	lock, err := lockFile(path + ".lock")
	if err != nil {
		return nil, err
	}
	if err := removeStale(path); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// Listen opens the socket, as the function [Listen] does. The claim is the listener's from then on.
func (c *Claim) Listen(mode fs.FileMode) (net.Listener, error) {
	if c.lock == nil {
		return nil, fmt.Errorf("opening the agent's socket %s: it is not claimed any more", c.path)
	}
	ln, err := bind(c.path, mode)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's socket %s: %w", c.path, err)
	}
	lock := c.lock
	c.lock = nil
	return &listener{UnixListener: ln, lock: lock}, nil
}

// Close lets go of a socket that was not opened. It may be called again.
func (c *Claim) Close() error {
	if c.lock == nil {
		return nil
	}
	lock := c.lock
	c.lock = nil
	return lock.Close()
}

// CheckDir reports why [Listen] would not take the directory of a socket at path, without making
// it. errors.Is(err, [fs.ErrNotExist]) holds for a directory that is not there.
func CheckDir(path string) error {
	if err := checkSocketPath(path); err != nil {
		return err
	}
	dir := filepath.Dir(path)
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return checkDir(dir, info)
}

func checkSocketPath(path string) error {
	if !filepath.IsAbs(path) {
		return errors.New("the path is not absolute")
	}
	if len(path) > maxSocketPathBytes {
		return fmt.Errorf("the path is longer than the %d bytes that the system allows", maxSocketPathBytes)
	}
	return nil
}

// prepareDir refuses a directory in which another local user could put its own socket in place of
// ours, or before ours, and answer applications in our name.
func prepareDir(dir string) error {
	switch err := os.Mkdir(dir, dirMode); {
	case err == nil:
		if err := os.Chmod(dir, dirMode); err != nil { // the umask of a daemon is often 077
			return err
		}
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrPermission):
		return fmt.Errorf("%w: make the directory, with mode 0755 and owned by the agent's user; with the units of the package, systemd makes directory and socket: systemctl start keyagent.socket", err)
	case !errors.Is(err, fs.ErrExist):
		return err
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	return checkDir(dir, info)
}

func checkDir(dir string, info fs.FileInfo) error {
	if !info.IsDir() {
		return fmt.Errorf("%s is not a directory", dir)
	}
	if err := owned.Check(dir, info); err != nil {
		return fmt.Errorf("other users could put a socket there: %w", err)
	}
	if _, err := owned.Resolve(dir); err != nil {
		return fmt.Errorf("on the way to the directory, %w", err)
	}
	return nil
}

// lockFile takes the lock or fails at once. The kernel gives it back when the process ends, however
// it ends.
func lockFile(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, lockMode)
	if err != nil {
		return nil, err
	}
	switch err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK):
		_ = file.Close()
		return nil, fmt.Errorf("%w (it holds %s)", ErrInUse, path)
	case err != nil:
		_ = file.Close()
		return nil, fmt.Errorf("locking %s: %w", path, err)
	}
	return file, nil
}

// bind opens the socket. Between bind and chmod its mode is that of the umask; a connection that
// comes early is identified like every other.
func bind(path string, mode fs.FileMode) (*net.UnixListener, error) {
	if err := removeStale(path); err != nil {
		return nil, err
	}
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		_ = ln.Close()
		return nil, err
	}
	return ln, nil
}

// removeStale removes a socket at which nobody answers. Anything else there is not ours to remove.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != fs.ModeSocket {
		return fmt.Errorf("there is a %v there that is not a socket", info.Mode())
	}
	conn, err := net.DialTimeout("unix", path, probeTimeout) //nolint:noctx // local, and bounded by the timeout
	if err == nil {
		_ = conn.Close()
		return ErrInUse
	}
	// Only this error says that no process has the socket open; a full backlog, for one, does not.
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("finding out whether the socket is in use: %w", err)
	}
	return os.Remove(path)
}

// listener holds the lock for as long as the socket exists.
type listener struct {
	*net.UnixListener
	lock *os.File
	once sync.Once
	err  error
}

// Close removes the socket, then lets go of the lock. It may be called again.
func (l *listener) Close() error {
	l.once.Do(func() { l.err = errors.Join(l.UnixListener.Close(), l.lock.Close()) })
	return l.err
}

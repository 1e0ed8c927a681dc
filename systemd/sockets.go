package systemd

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	firstSocket = 3  // SD_LISTEN_FDS_START
	maxSockets  = 64 // far above what the agent has names for
)

// Sockets are the listening sockets that were passed to this process and not taken yet. A nil
// *Sockets has none. It is safe for concurrent use.
type Sockets struct {
	mu     sync.Mutex
	byName map[string][]*os.File
}

// TakeSockets returns the sockets that were passed to this process; nil if none were. Call it once,
// before any other program is started and any file is opened: it takes descriptors by their
// numbers.
func TakeSockets() (*Sockets, error) {
	pid, count, names := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS"), os.Getenv("LISTEN_FDNAMES")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID"} {
		if err := os.Unsetenv(name); err != nil {
			return nil, fmt.Errorf("taking the sockets that systemd passes: %w", err)
		}
	}
	if pid != strconv.Itoa(os.Getpid()) {
		return nil, nil // they were passed to another process, whose environment this one has inherited
	}
	n, err := strconv.Atoi(count)
	if err != nil || n < 0 || n > maxSockets {
		return nil, fmt.Errorf("taking the sockets that systemd passes: LISTEN_FDS is %q, not a number up to %d", count, maxSockets)
	}
	return socketsFrom(firstSocket, n, names)
}

// socketsFrom takes n descriptors from the first one on, whose names are separated by colons.
func socketsFrom(first, n int, names string) (*Sockets, error) {
	s := &Sockets{byName: map[string][]*os.File{}}
	called := strings.Split(names, ":")
	for i := range n {
		unix.CloseOnExec(first + i)
		name := ""
		if len(called) == n {
			name = called[i]
		}
		s.byName[name] = append(s.byName[name], os.NewFile(uintptr(first+i), "systemd:"+name))
	}
	if n > 0 && len(called) != n {
		return nil, errors.Join(fmt.Errorf("taking the sockets that systemd passes: %d sockets with the names %q", n, names), s.Close())
	}
	return s, nil
}

// Names returns the names of the sockets that are left, sorted.
func (s *Sockets) Names() []string {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.byName))
}

// Take returns the listener that was passed under a name; nil if none was, or if it was taken
// before. The caller closes it, which leaves a Unix socket in the file system.
func (s *Sockets) Take(name string) (net.Listener, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	files := s.byName[name]
	delete(s.byName, name)
	s.mu.Unlock()
	if len(files) == 0 {
		return nil, nil
	}
	defer func() { _ = closeAll(files) }()
	if len(files) > 1 {
		return nil, fmt.Errorf("systemd passes %d sockets with the name %s: the agent takes one", len(files), name)
	}
	ln, err := listener(files[0])
	if err != nil {
		return nil, fmt.Errorf("the socket that systemd passes with the name %s: %w", name, err)
	}
	return ln, nil
}

// Close closes the sockets that nobody has taken.
func (s *Sockets) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var problems []error
	for _, files := range s.byName {
		problems = append(problems, closeAll(files))
	}
	clear(s.byName)
	return errors.Join(problems...)
}

func closeAll(files []*os.File) error {
	var problems []error
	for _, file := range files {
		problems = append(problems, file.Close())
	}
	return errors.Join(problems...)
}

// listener makes a listener of a socket, which stays open.
func listener(file *os.File) (net.Listener, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	var refused error
	if err := raw.Control(func(fd uintptr) { refused = check(int(fd)) }); err != nil {
		return nil, err
	}
	if refused != nil {
		return nil, refused
	}
	return net.FileListener(file)
}

// check refuses what is not a listening stream socket.
func check(fd int) error {
	listens, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil {
		return fmt.Errorf("it is not a socket: %w", err)
	}
	kind, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		return err
	}
	if listens == 0 || kind != unix.SOCK_STREAM {
		return errors.New("it is not a listening stream socket (ListenStream=, Accept=no)")
	}
	protocol, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL)
	if err != nil {
		return err
	}
	if protocol == unix.IPPROTO_MPTCP {
		return errors.New("it speaks Multipath TCP: leave SocketProtocol= out of the unit")
	}
	return nil
}

// Duplicate returns the same sockets once more. A caller that may have to close the listeners made
// from the first ones uses it: to take or close these leaves the others open.
func (s *Sockets) Duplicate() (*Sockets, error) {
	if s == nil {
		return nil, nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	again := &Sockets{byName: map[string][]*os.File{}}
	for name, files := range s.byName {
		for _, file := range files {
			fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return nil, errors.Join(fmt.Errorf("the socket that systemd passes with the name %s: %w", name, err), again.Close())
			}
			again.byName[name] = append(again.byName[name], os.NewFile(uintptr(fd), file.Name()))
		}
	}
	return again, nil
}

package peer

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

// try makes a connection to itself and compares the kernel's answer with the known one. It fails
// whatever is missing: the family of sockets, the kernel's modules, the right to ask, or user ids
// that are true.
func (t *TCP) try() error {
	trial, err := connectToItself()
	defer trial.close()
	if err != nil {
		return fmt.Errorf("a connection of this process to itself: %w", err)
	}
	found, err := t.ask(trial.client, loopbackIndex)
	if errors.Is(err, errNoSocket) {
		return errors.New("the kernel does not tell of a socket of this process: it needs the modules inet_diag and tcp_diag")
	}
	if err != nil {
		return err
	}
	if _, err := t.owner(trial.client, loopbackIndex, trial.accepted); err != nil {
		return err
	}
	var stat unix.Stat_t
	if err := unix.Fstat(trial.connected, &stat); err != nil {
		return err
	}
	if me := os.Geteuid(); int64(found.uid) != int64(me) || uint64(found.inode) != stat.Ino {
		return fmt.Errorf("of a socket of this process, the kernel says that it is uid %d's and has inode %d, not %d and %d "+
			"(in a systemd unit: PrivateUsers=no)", found.uid, found.inode, me, stat.Ino)
	}
	return nil
}

// trial is a connection over loopback of which this process has both ends; -1 stands for none.
type trial struct {
	listening, connected, accepted int
	client                         endpoints
}

func connectToItself() (t trial, err error) {
	t = trial{-1, -1, -1, endpoints{}}
	const kind = unix.SOCK_STREAM | unix.SOCK_CLOEXEC
	if t.listening, err = unix.Socket(unix.AF_INET, kind, unix.IPPROTO_TCP); err != nil {
		return t, err
	}
	if err = unix.Bind(t.listening, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return t, err
	}
	if err = unix.Listen(t.listening, 1); err != nil {
		return t, err
	}
	if t.connected, err = unix.Socket(unix.AF_INET, kind, unix.IPPROTO_TCP); err != nil {
		return t, err
	}
	at, err := unix.Getsockname(t.listening)
	if err != nil {
		return t, err
	}
	if err = unix.Connect(t.connected, at); err != nil {
		return t, err
	}
	from, err := unix.Getsockname(t.connected)
	if err != nil {
		return t, err
	}
	t.client = endpoints{local: inet4(from), remote: inet4(at)}
	t.accepted, _, err = unix.Accept4(t.listening, unix.SOCK_CLOEXEC)
	return t, err
}

func inet4(at unix.Sockaddr) netip.AddrPort {
	four, ok := at.(*unix.SockaddrInet4)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), uint16(four.Port)) //nolint:gosec // a port
}

func (t trial) close() {
	for _, fd := range []int{t.listening, t.connected, t.accepted} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

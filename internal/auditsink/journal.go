package auditsink

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// maxFieldName is the longest name of a field that the journal takes.
const maxFieldName = 64

// journal sends entries to journald. It is safe for concurrent use.
type journal struct {
	address net.UnixAddr

	mu     sync.Mutex // not held while an entry is sent
	conn   *net.UnixConn
	closed bool
}

func openJournal(socket string) (*journal, error) {
	if socket == "" {
		socket = JournalSocket
	}
	j := &journal{address: net.UnixAddr{Name: socket, Net: "unixgram"}}
	_, err := j.connection(nil)
	return j, err
}

// connection returns one to the journal that is not the one that failed.
func (j *journal) connection(failed *net.UnixConn) (*net.UnixConn, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return nil, net.ErrClosed
	}
	if j.conn != nil && j.conn != failed {
		return j.conn, nil
	}
	if j.conn != nil {
		_ = j.conn.Close() // it was of no use
		j.conn = nil
	}
	conn, err := net.DialUnix("unixgram", nil, &j.address)
	if err != nil {
		return nil, err
	}
	j.conn = conn
	return conn, nil
}

// send sends an entry. A connection that was made before may be to a journal that has ended, so a
// failure on it is no answer yet.
func (j *journal) send(entry []byte) error {
	conn, err := j.connection(nil)
	if err != nil {
		return err
	}
	if err = sendOn(conn, entry); err == nil {
		return nil
	}
	if conn, err = j.connection(conn); err != nil {
		return err
	}
	return sendOn(conn, entry)
}

// sendOn waits for as long as the journal does not read.
func sendOn(conn *net.UnixConn, entry []byte) error {
	_, err := conn.Write(entry)
	if errors.Is(err, unix.EMSGSIZE) || errors.Is(err, unix.ENOBUFS) {
		return sendFile(conn, entry)
	}
	return err
}

// sendFile sends an entry that is too large for a datagram: journald maps the file, once it is
// sealed so that nobody can change it meanwhile.
func sendFile(conn *net.UnixConn, entry []byte) error {
	fd, err := unix.MemfdCreate("keyagent-audit", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return fmt.Errorf("a memory file for a large record: %w", err)
	}
	file := os.NewFile(uintptr(fd), "keyagent-audit")
	defer file.Close()
	if _, err := file.Write(entry); err != nil {
		return err
	}
	const seals = unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(file.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("sealing the memory file of a large record: %w", err)
	}
	return sendRights(conn, unix.UnixRights(int(file.Fd())))
}

// sendRights sends a datagram with nothing but a control message, which package net does not do on
// a connected socket.
func sendRights(conn *net.UnixConn, rights []byte) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Write(func(fd uintptr) (done bool) {
		sendErr = unix.Sendmsg(int(fd), nil, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sendErr, unix.EAGAIN)
	})
	return errors.Join(err, sendErr)
}

func (j *journal) reopen() {} // it notices itself when the journal has been restarted

// Close implements io.Closer. It ends a write that waits.
func (j *journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	if j.conn == nil {
		return nil
	}
	err := j.conn.Close()
	j.conn = nil
	return err
}

// appendField adds a field to an entry. Only the binary form can hold a line break.
func appendField(entry []byte, name, value string) []byte {
	entry = append(entry, name...)
	if strings.Contains(value, "\n") {
		entry = append(entry, '\n')
		entry = binary.LittleEndian.AppendUint64(entry, uint64(len(value)))
	} else {
		entry = append(entry, '=')
	}
	entry = append(entry, value...)
	return append(entry, '\n')
}

// fieldName makes the name of a field of the journal of that of an attribute: capital letters,
// digits and underscores.
func fieldName(prefix, key string) string {
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z':
			return r - 'a' + 'A'
		case r >= 'A' && r <= 'Z', r >= '0' && r <= '9':
			return r
		}
		return '_'
	}, prefix+key)
	return name[:min(len(name), maxFieldName)]
}

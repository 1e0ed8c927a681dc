package tpm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"
)

const (
	headerBytes = 10 // tag, size, code: TPM 2.0 Part 1, 18.2
	// maxResponseBytes is the largest response taken. It is MAX_RESPONSE_SIZE of the reference implementation, and the kernel
	// driver's TPM_BUFSIZE.
	maxResponseBytes = 4096
)

// conn speaks the TPM's framing over a stream: one command, one response. After any error it is unusable: what comes from the
// stream next could be the late rest of an old answer. Not safe for concurrent use.
type conn struct {
	stream  stream
	timeout time.Duration // for one exchange
	buf     [maxResponseBytes]byte

	// For checkIdle. Socket is nil for a device file, whose driver's poll may block.
	socket syscall.RawConn
	poll   func(fd uintptr)
	events int16
}

func newConn(s stream, timeout time.Duration) (*conn, error) {
	c := &conn{stream: s, timeout: timeout}
	c.poll = func(fd uintptr) { c.events = readable(fd) }
	socket, ok := s.(syscall.Conn)
	if _, file := s.(*os.File); file || !ok {
		return c, nil
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return nil, err
	}
	c.socket = raw
	return c, nil
}

// exchange sends a command and returns its response, which is valid until the next exchange.
func (c *conn) exchange(command []byte) ([]byte, error) {
	if err := c.checkIdle(); err != nil {
		return nil, err
	}
	err := c.stream.SetDeadline(time.Now().Add(c.timeout))
	if errors.Is(err, os.ErrNoDeadline) {
		return c.roundTripWatched(command)
	}
	if err != nil {
		return nil, err
	}
	return c.roundTrip(command)
}

func (c *conn) roundTrip(command []byte) ([]byte, error) {
	if _, err := c.stream.Write(command); err != nil {
		return nil, err
	}
	// One read usually brings all of it. What is beyond the first response is nobody's answer.
	have, err := io.ReadAtLeast(c.stream, c.buf[:], headerBytes)
	if err != nil {
		return nil, fmt.Errorf("reading the response header: %w", err)
	}
	size, err := responseSize(c.buf[:headerBytes])
	if err != nil {
		return nil, err
	}
	if have > size {
		return nil, fmt.Errorf("%d bytes follow a response of %d", have-size, size)
	}
	if _, err := io.ReadFull(c.stream, c.buf[have:size]); err != nil {
		return nil, fmt.Errorf("reading a response of %d bytes: %w", size, err)
	}
	return c.buf[:size], nil
}

// roundTripWatched is roundTrip where the stream knows no deadlines: a character device. When the time is over, the
// goroutine stays behind until the kernel ends the command, which it does, and takes conn with it.
func (c *conn) roundTripWatched(command []byte) ([]byte, error) {
	type result struct {
		rsp []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		rsp, err := c.roundTrip(command)
		done <- result{rsp, err}
	}()
	timer := time.NewTimer(c.timeout)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.rsp, r.err
	case <-timer.C:
		return nil, os.ErrDeadlineExceeded
	}
}

// responseSize checks a response header and returns the length of the whole response.
func responseSize(header []byte) (int, error) {
	tag := tpm2.TPMST(binary.BigEndian.Uint16(header))
	size := binary.BigEndian.Uint32(header[2:])
	if tag != tpm2.TPMSTNoSessions && tag != tpm2.TPMSTSessions && tag != tpm2.TPMSTRspCommand {
		return 0, fmt.Errorf("this is not a TPM: its response begins with tag 0x%04x", uint16(tag))
	}
	if size < headerBytes || size > maxResponseBytes {
		return 0, fmt.Errorf("response claims %d bytes, allowed are %d to %d", size, headerBytes, maxResponseBytes)
	}
	return int(size), nil
}

// checkIdle finds out, before a command is spent on it, whether a socket's peer has gone or left bytes that nobody asked
// for.
func (c *conn) checkIdle() error {
	if c.socket == nil {
		return nil
	}
	if err := c.socket.Control(c.poll); err != nil {
		return err
	}
	if c.events != 0 {
		return errors.New("the peer closed it or sent bytes out of turn")
	}
	return nil
}

// readable polls a socket for input, end of file or an error, without waiting.
func readable(fd uintptr) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}} // #nosec G115 -- a descriptor fits
	n, err := unix.Poll(fds, 0)
	if err != nil || n == 0 {
		return 0 // a signal interrupted it: then the exchange itself finds out
	}
	return fds[0].Revents
}

package device

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"github.com/keyagent/keyagent/internal/tcg"
)

const (
	HeaderBytes = 10 // tag, size, code: TPM 2.0 Part 1, 18.2
	// MaxResponseBytes is the largest response taken. It is MAX_RESPONSE_SIZE of the reference
	// implementation, and the kernel driver's TPM_BUFSIZE.
	MaxResponseBytes = 4096
)

// errAbandoned says that a command was sent and its caller has gone before the answer came.
var errAbandoned = errors.New("the TPM still works on it")

// conn speaks the TPM's framing over a stream: one command, one response. After any error but
// errAbandoned it is unusable: what comes from the stream next could be the late rest of an old
// answer. Not safe for concurrent use.
type conn struct {
	stream  Stream
	timeout time.Duration // for one exchange
	buf     [MaxResponseBytes]byte
	have    int       // bytes of the response under way that are in buf
	until   time.Time // when the exchange under way is given up; the stream's deadline
	watched bool      // the stream knows no deadlines

	// late waits for the answer to an abandoned command, lateCommand. Nil: none is due.
	late        func() ([]byte, error)
	lateCommand []byte

	// For checkIdle. Socket is nil for a device file, whose driver's poll may block.
	socket syscall.RawConn
	poll   func(fd uintptr)
	events int16
	idle   bool // checked, and nothing was sent since

	waking sync.Mutex
	reads  uint64 // under waking: number of the exchange whose read may be woken; it is odd while there is one
	woken  bool   // under waking: the stream's deadline is past for it
}

func newConn(s Stream, timeout time.Duration) (*conn, error) {
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

// exchange sends a command and returns its response, which is valid until the next exchange. If ctx
// ends first the error is errAbandoned, and late is set: the conn is of no other use until late has
// returned.
func (c *conn) exchange(ctx context.Context, command []byte) ([]byte, error) {
	if err := c.checkIdle(); err != nil {
		return nil, err
	}
	c.idle, c.have = false, 0
	if err := c.extendDeadline(); err != nil {
		return nil, err
	}
	if c.watched {
		return c.exchangeWatched(ctx, bytes.Clone(command))
	}
	if _, err := c.stream.Write(command); err != nil {
		return nil, err
	}
	stop := c.wakeAtEnd(ctx)
	rsp, err := c.read()
	stop()
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil && time.Now().Before(c.until) {
		c.late = c.resume
		return nil, fmt.Errorf("%w: %w", errAbandoned, ctx.Err())
	}
	return rsp, err
}

// extendDeadline gives an exchange its time, and up to a quarter more: a deadline that is moved
// with every exchange would cost more than all the rest that is ours, because the runtime wakes a
// thread for it.
func (c *conn) extendDeadline() error {
	now := time.Now()
	if c.until.Sub(now) >= c.timeout {
		return nil
	}
	c.until = now.Add(c.timeout + c.timeout/4)
	err := c.stream.SetDeadline(c.until)
	if errors.Is(err, os.ErrNoDeadline) {
		c.watched = true
		return nil
	}
	return err
}

// wakeAtEnd lets the read under way return when ctx ends. After stop it has no effect any more,
// even if it comes late.
func (c *conn) wakeAtEnd(ctx context.Context) (stop func()) {
	if ctx.Done() == nil {
		return func() {}
	}
	c.waking.Lock()
	c.reads++
	number := c.reads
	c.waking.Unlock()
	cancel := context.AfterFunc(ctx, func() {
		c.waking.Lock()
		defer c.waking.Unlock()
		if c.reads == number {
			_ = c.stream.SetDeadline(time.Unix(1, 0)) // a broken stream wakes the read by itself
			c.woken = true
		}
	})
	return func() {
		cancel()
		c.waking.Lock()
		defer c.waking.Unlock()
		c.reads++
		if c.woken {
			c.woken = false
			_ = c.stream.SetDeadline(c.until) // a broken stream shows at the next read
		}
	}
}

// resume goes on reading the response that an interrupted read left unfinished.
func (c *conn) resume() ([]byte, error) {
	c.late = nil
	return c.read()
}

// read reads one response, from where the last read was interrupted.
func (c *conn) read() ([]byte, error) {
	// One read usually brings all of it. Bytes after the first response answer no command.
	if err := c.fill(HeaderBytes, len(c.buf)); err != nil {
		return nil, fmt.Errorf("reading the response header: %w", err)
	}
	size, err := responseSize(c.buf[:HeaderBytes])
	if err != nil {
		return nil, err
	}
	if c.have > size {
		return nil, fmt.Errorf("%d bytes follow a response of %d", c.have-size, size)
	}
	if err := c.fill(size, size); err != nil {
		return nil, fmt.Errorf("reading a response of %d bytes: %w", size, err)
	}
	return c.buf[:size], nil
}

// fill reads until buf holds at least atLeast bytes, and not more than atMost.
func (c *conn) fill(atLeast, atMost int) error {
	for c.have < atLeast {
		n, err := c.stream.Read(c.buf[c.have:atMost])
		c.have += n
		if err == nil && n == 0 || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil && c.have < atLeast {
			return err
		}
	}
	return nil
}

// exchangeWatched is exchange where the stream knows no deadlines: a character device. When the
// time is over, the goroutine stays behind until the kernel ends the command, which it does, and
// takes conn with it.
func (c *conn) exchangeWatched(ctx context.Context, command []byte) ([]byte, error) {
	type result struct {
		rsp []byte
		err error
	}
	done := make(chan result, 1)
	go func() {
		_, err := c.stream.Write(command)
		if err != nil {
			done <- result{nil, err}
			return
		}
		rsp, err := c.read()
		done <- result{rsp, err}
	}()
	wait := func(gone <-chan struct{}) ([]byte, error) {
		timer := time.NewTimer(time.Until(c.until))
		defer timer.Stop()
		select {
		case r := <-done:
			return r.rsp, r.err
		case <-timer.C:
			return nil, os.ErrDeadlineExceeded
		case <-gone:
			return nil, errAbandoned
		}
	}
	rsp, err := wait(ctx.Done())
	if errors.Is(err, errAbandoned) {
		c.late = func() ([]byte, error) { c.late = nil; return wait(nil) }
		return nil, fmt.Errorf("%w: %w", errAbandoned, ctx.Err())
	}
	return rsp, err
}

// responseSize checks a response header and returns the length of the whole response.
func responseSize(header []byte) (int, error) {
	tag := tpm2.TPMST(binary.BigEndian.Uint16(header))
	size := binary.BigEndian.Uint32(header[2:])
	if tag != tpm2.TPMSTNoSessions && tag != tpm2.TPMSTSessions && tag != tpm2.TPMSTRspCommand {
		return 0, fmt.Errorf("this is not a TPM: its response begins with tag %s", tcg.Structure(uint16(tag)))
	}
	if size < HeaderBytes || size > MaxResponseBytes {
		return 0, fmt.Errorf("response claims %d bytes, allowed are %d to %d", size, HeaderBytes, MaxResponseBytes)
	}
	return int(size), nil
}

// checkIdle finds out, before a command is spent on it, whether a socket's peer has gone or left
// bytes that nobody asked for.
func (c *conn) checkIdle() error {
	if c.idle || c.socket == nil {
		return nil
	}
	if err := c.socket.Control(c.poll); err != nil {
		return err
	}
	if c.events != 0 {
		return errors.New("the peer closed it or sent bytes out of turn")
	}
	c.idle = true
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

package vtpm

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerBytes     = 10   // tag, size, code: TPM 2.0 Part 1, 18.2
	maxMessageBytes = 4096 // MAX_COMMAND_SIZE and MAX_RESPONSE_SIZE
)

// guest is one connection: what a client sees of the TPM.
type guest struct {
	tpm  *TPM
	conn net.Conn
}

func (t *TPM) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			return // closed
		}
		if !t.admit(conn) {
			_ = conn.Close() // the TPM is being switched off
			continue
		}
		t.serving.Go(func() { (&guest{tpm: t, conn: conn}).serve() })
	}
}

// admit enters a connection into the list of those to be closed.
func (t *TPM) admit(conn net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.connections[conn] = struct{}{}
	return true
}

// serve executes the commands of one connection until it ends.
func (g *guest) serve() {
	defer g.leave()
	buf := make([]byte, maxMessageBytes)
	for {
		command, err := readCommand(g.conn, buf)
		if err != nil {
			return // gone, or not speaking TPM
		}
		rsp, err := g.execute(command)
		if err != nil {
			return
		}
		if _, err := g.conn.Write(rsp); err != nil {
			return
		}
	}
}

// readCommand reads one command by the length in its header.
func readCommand(r io.Reader, buf []byte) ([]byte, error) {
	if _, err := io.ReadFull(r, buf[:headerBytes]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(buf[2:])
	if size < headerBytes || size > uint32(len(buf)) { // #nosec G115 -- a buffer of 4096
		return nil, fmt.Errorf("command claims %d bytes", size)
	}
	_, err := io.ReadFull(r, buf[headerBytes:size])
	return buf[:size], err
}

// execute runs one command in the guest's view.
func (g *guest) execute(command []byte) ([]byte, error) {
	if usesPlatform(command) {
		return failure(rcHierarchyHandle1), nil
	}
	if g.tpm.azure {
		if rsp, done := g.tpm.answerReport(command); done {
			return rsp, nil
		}
	}
	g.tpm.mu.Lock()
	defer g.tpm.mu.Unlock()
	if g.tpm.closed {
		return nil, net.ErrClosed
	}
	rsp, err := g.tpm.sendLocked(command)
	if err == nil {
		g.track(command, rsp)
	}
	return rsp, err
}

// usesPlatform reports whether a command's first handle is TPM_RH_PLATFORM, which the platform closes before the guest
// starts.
func usesPlatform(command []byte) bool {
	return len(command) >= headerBytes+4 &&
		tpm2.TPMHandle(binary.BigEndian.Uint32(command[headerBytes:])) == tpm2.TPMRHPlatform
}

// track notes what this connection loads and flushes. A handle that comes again was free before, so the last one who got it
// owns it.
func (g *guest) track(command, rsp []byte) {
	if len(rsp) < headerBytes || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		return
	}
	switch commandCode(command) {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCContextLoad, tpm2.TPMCCCreateLoaded,
		tpm2.TPMCCStartAuthSession, tpm2.TPMCCMACStart, tpm2.TPMCCHashSequenceStart:
		if len(rsp) >= headerBytes+4 {
			g.tpm.owners[handleAt(rsp)] = g
		}
	case tpm2.TPMCCFlushContext:
		delete(g.tpm.owners, handleAt(command))
	}
}

// leave flushes what the connection left behind.
func (g *guest) leave() {
	_ = g.conn.Close() // all is said
	g.tpm.mu.Lock()
	defer g.tpm.mu.Unlock()
	delete(g.tpm.connections, g.conn)
	for h, owner := range g.tpm.owners {
		if owner != g {
			continue
		}
		delete(g.tpm.owners, h)
		// Sessions and sequences may have ended by themselves: then there is nothing to flush.
		_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(locked{g.tpm})
	}
}

// commandCode returns the code of a command, which readCommand has found long enough.
func commandCode(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// handleAt returns the first handle of a command or response that has one.
func handleAt(b []byte) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(b[headerBytes:]))
}

// failure is a response with a code and nothing else.
func failure(code tpm2.TPMRC) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, headerBytes)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

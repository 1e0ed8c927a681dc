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
	tpm   *TPM
	conn  net.Conn
	space space // of tpm.mu
}

func (t *TPM) accept() {
	for {
		conn, err := t.listener.Accept()
		if err != nil {
			return // closed
		}
		g := &guest{tpm: t, conn: conn, space: make(space)}
		if !t.admit(g) {
			_ = conn.Close() // the TPM is being switched off
			continue
		}
		t.serving.Go(g.serve)
	}
}

// admit enters a connection into the list of those to be closed.
func (t *TPM) admit(g *guest) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.guests[g] = struct{}{}
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

// failure is a response with a code and nothing else.
func failure(code tpm2.TPMRC) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, headerBytes)
	return binary.BigEndian.AppendUint32(b, uint32(code))
}

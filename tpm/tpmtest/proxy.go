package tpmtest

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
)

const (
	headerBytes     = 10
	maxMessageBytes = 4096
)

// Forward sends a command on to the TPM and returns its response.
type Forward func(command []byte) ([]byte, error)

// Handler decides what becomes of a command. What it returns goes to the client, as many bytes as
// there are; an error closes the client's connection, after them. It is called for one command of a
// connection at a time.
type Handler func(command []byte, forward Forward) ([]byte, error)

// ErrHangUp is for handlers that want to close the connection.
var ErrHangUp = errors.New("hang up")

// Proxy stands between a client and a TPM and does to the conversation what a test wants. Without a
// handler it only passes on. Each client has its own connection to the TPM, which ends with the
// client's.
type Proxy struct {
	server
	upstream string
	handler  Handler // under mu: what a handler does is seen by the one of the next connection
}

// NewProxy starts a proxy before the TPM at device, "unix:/path". It ends with the test; what a
// handler blocks on must be released before.
func NewProxy(t testing.TB, device string) *Proxy {
	t.Helper()
	p := &Proxy{upstream: strings.TrimPrefix(device, "unix:")}
	p.start(t, p.serve)
	return p
}

// Handle sets the handler for the commands to come. Nil passes them on.
func (p *Proxy) Handle(h Handler) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.handler = h
}

// serve carries one client's commands until either side ends.
func (p *Proxy) serve(client net.Conn) {
	upstream, err := net.Dial("unix", p.upstream)
	if err != nil {
		return
	}
	defer upstream.Close()
	forward := func(command []byte) ([]byte, error) {
		if _, err := upstream.Write(command); err != nil {
			return nil, err
		}
		return readMessage(upstream)
	}
	for {
		command, err := readMessage(client)
		if err != nil {
			return
		}
		rsp, err := p.handle(command, forward)
		if _, writeErr := client.Write(rsp); writeErr != nil || err != nil {
			return
		}
	}
}

func (p *Proxy) handle(command []byte, forward Forward) ([]byte, error) {
	p.mu.Lock()
	h := p.handler
	p.mu.Unlock()
	if h == nil {
		return forward(command)
	}
	return h(command, forward)
}

// readMessage reads one command or response by the length in its header.
func readMessage(r io.Reader) ([]byte, error) {
	header := make([]byte, headerBytes)
	if _, err := io.ReadFull(r, header); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(header[2:])
	if size < headerBytes || size > maxMessageBytes {
		return nil, fmt.Errorf("message claims %d bytes", size)
	}
	message := append(header, make([]byte, size-headerBytes)...)
	_, err := io.ReadFull(r, message[headerBytes:])
	return message, err
}

// Response makes a response that is a code and nothing else.
func Response(code uint32) []byte {
	b := binary.BigEndian.AppendUint16(nil, 0x8001)
	b = binary.BigEndian.AppendUint32(b, headerBytes)
	return binary.BigEndian.AppendUint32(b, code)
}

// CommandCode returns the code of a command.
func CommandCode(command []byte) uint32 { return binary.BigEndian.Uint32(command[6:]) }

// handleAt returns what follows the header of a command or response: a handle, if it is one that
// has any.
func handleAt(message []byte) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(message[headerBytes:]))
}

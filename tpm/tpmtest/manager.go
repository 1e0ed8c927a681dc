package tpmtest

import (
	"errors"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
)

// Manager does with sessions what the kernel's resource manager does (Linux
// drivers/char/tpm/tpm2-space.c): all clients share one connection to the TPM, and a client's
// sessions are loaded before each of its commands and put aside after it. So the age of a session
// that is put aside and not used holds back the TPM's context counter, as on a real machine.
// Objects are left where they are.
type Manager struct {
	server

	mu  sync.Mutex // around a command with its loading and saving
	tpm net.Conn
}

// NewManager starts a resource manager before the TPM at device, "unix:/path". It ends with the
// test.
func NewManager(t testing.TB, device string) *Manager {
	t.Helper()
	upstream, err := net.Dial("unix", strings.TrimPrefix(device, "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = upstream.Close() }) // all is said
	m := &Manager{tpm: upstream}
	m.start(t, m.serve)
	return m
}

// space is one client's sessions, by handle, as TPM2_ContextSave gave them.
type space map[tpm2.TPMHandle]tpm2.TPMSContext

// serve carries one client's commands.
func (m *Manager) serve(client net.Conn) {
	s := make(space)
	defer m.forget(s)
	for {
		command, err := readMessage(client)
		if err != nil {
			return
		}
		rsp, err := m.execute(s, command)
		if err != nil {
			return
		}
		if _, err := client.Write(rsp); err != nil {
			return
		}
	}
}

func (m *Manager) execute(s space, command []byte) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.load(s); err != nil {
		return nil, err
	}
	rsp, err := m.send(command)
	if err != nil {
		return nil, err
	}
	if code := tpm2.TPMCC(CommandCode(command)); code == tpm2.TPMCCFlushContext {
		delete(s, handleAt(command))
	} else if code == tpm2.TPMCCStartAuthSession && len(rsp) >= headerBytes+4 {
		s[handleAt(rsp)] = tpm2.TPMSContext{}
	}
	return m.refuse(rsp, s, m.save(s))
}

// refuse answers with the code for which the TPM did not put a session aside, after all of the
// client's were flushed. The kernel flushes them, too, and makes an errno of it.
func (m *Manager) refuse(rsp []byte, s space, err error) ([]byte, error) {
	var code tpm2.TPMRC
	if !errors.As(err, &code) {
		return rsp, err
	}
	m.flush(s)
	return Response(uint32(code)), nil
}

// load loads a client's sessions. One that somebody has flushed is forgotten.
func (m *Manager) load(s space) error {
	for h, saved := range s {
		_, err := tpm2.ContextLoad{Context: saved}.Execute(upstream{m})
		if errors.Is(err, tpm2.TPMRCReferenceH0) || errors.Is(err, tpm2.TPMRCHandle) {
			delete(s, h)
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// save puts a client's sessions aside. One that ended is forgotten.
func (m *Manager) save(s space) error {
	for h := range s {
		rsp, err := tpm2.ContextSave{SaveHandle: h}.Execute(upstream{m})
		if errors.Is(err, tpm2.TPMRCReferenceH0) || errors.Is(err, tpm2.TPMRCHandle) {
			delete(s, h)
			continue
		}
		if err != nil {
			return err
		}
		s[h] = rsp.Context
	}
	return nil
}

// forget flushes what a client has left.
func (m *Manager) forget(s space) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.flush(s)
}

func (m *Manager) flush(s space) {
	for h := range s {
		delete(s, h)
		_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(upstream{m}) // the TPM may be gone first
	}
}

func (m *Manager) send(command []byte) ([]byte, error) {
	if _, err := m.tpm.Write(command); err != nil {
		return nil, err
	}
	return readMessage(m.tpm)
}

// upstream is the TPM for who holds the lock.
type upstream struct{ manager *Manager }

var _ transport.TPM = upstream{}

func (u upstream) Send(command []byte) ([]byte, error) { return u.manager.send(command) }

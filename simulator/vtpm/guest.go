package vtpm

import (
	"encoding/binary"
	"net"
	"syscall"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"
)

// attributes says of a command how many handles it begins with, and whether its response begins with one.
type attributes struct {
	handles  int
	response bool
}

// readAttributes asks the TPM about all its commands, as the kernel's resource manager does (TPM 2.0 Part 2, 8.9).
func readAttributes(t transport.TPM) (map[tpm2.TPMCC]attributes, error) {
	rsp, err := tpm2.GetCapability{Capability: tpm2.TPMCapCommands, Property: uint32(tpm2.TPMCCNVUndefineSpaceSpecial), PropertyCount: 254}.Execute(t)
	if err != nil {
		return nil, err
	}
	list, err := rsp.CapabilityData.Data.Command()
	if err != nil {
		return nil, err
	}
	commands := make(map[tpm2.TPMCC]attributes)
	for _, a := range list.CommandAttributes {
		commands[tpm2.TPMCC(a.CommandIndex)] = attributes{handles: int(a.CHandles), response: a.RHandle}
	}
	return commands, nil
}

// execute runs one command in the guest's view.
func (g *guest) execute(command []byte) ([]byte, error) {
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
	if code := g.refuse(command); code != tpm2.TPMRCSuccess {
		return failure(code), nil
	}
	rsp, err := g.tpm.sendLocked(command)
	if err == nil && outOfSlots(rsp) && g.tpm.reapLocked() {
		rsp, err = g.tpm.sendLocked(command)
	}
	if err == nil {
		g.track(command, rsp)
	}
	return rsp, err
}

func outOfSlots(rsp []byte) bool {
	if len(rsp) < headerBytes {
		return false
	}
	code := tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:]))
	return code == tpm2.TPMRCObjectMemory || code == tpm2.TPMRCSessionMemory
}

// reapLocked flushes at once what connections hold whose client has gone and whose server has not noticed yet. With a kernel's
// resource manager, too, the slots are free when close(2) or the exit of the process has returned.
func (t *TPM) reapLocked() bool {
	gone := make(map[*guest]bool)
	for _, owner := range t.owners {
		if _, asked := gone[owner]; !asked {
			gone[owner] = hungUp(owner.conn)
		}
	}
	reaped := false
	for owner, is := range gone {
		if is {
			owner.flushLocked()
			reaped = true
		}
	}
	return reaped
}

// hungUp reports whether the other end of a connection was closed.
func hungUp(conn net.Conn) bool {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true // closed on this side
	}
	var events int16
	err = raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			events = fds[0].Revents
		}
	})
	return err != nil || events != 0
}

// refuse returns the code for a command that names what this guest may not use: the platform hierarchy, which the platform
// closes before the guest starts, and transient objects of other connections, which a resource manager would not show.
func (g *guest) refuse(command []byte) tpm2.TPMRC {
	code := commandCode(command)
	if code == tpm2.TPMCCFlushContext && len(command) >= headerBytes+4 && g.foreign(handleAt(command, 0)) {
		return rcHandleParameter1
	}
	for i := range g.tpm.commands[code].handles {
		if len(command) < headerBytes+4*(i+1) {
			break // the TPM will say so
		}
		h, at := handleAt(command, i), tpm2.TPMRC(i) // #nosec G115 -- at most 3
		if h == tpm2.TPMRHPlatform {
			return tpm2.TPMRCHierarchy | (at+1)<<8
		}
		if g.foreign(h) {
			return tpm2.TPMRCReferenceH0 + at
		}
	}
	return tpm2.TPMRCSuccess
}

// foreign reports whether a handle is that of a transient object that another connection has loaded.
func (g *guest) foreign(h tpm2.TPMHandle) bool {
	owner, found := g.tpm.owners[h]
	return found && owner != g && byte(h>>24) == byte(tpm2.TPMHTTransient)
}

// track notes what this connection loads and flushes. A handle that comes again was free before, so the last one who got it
// owns it.
func (g *guest) track(command, rsp []byte) {
	if len(rsp) < headerBytes || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		return
	}
	code := commandCode(command)
	if g.tpm.commands[code].response && len(rsp) >= headerBytes+4 {
		g.tpm.owners[handleAt(rsp, 0)] = g
	}
	if code == tpm2.TPMCCFlushContext || code == tpm2.TPMCCContextSave && session(handleAt(command, 0)) {
		delete(g.tpm.owners, handleAt(command, 0))
	}
}

// session reports whether a handle is a session's. One that its client has saved leaves the TPM, and the kernel's resource
// manager, when it does not find it any more, forgets it: it outlives the connection, and whoever has it loads it again.
func session(h tpm2.TPMHandle) bool {
	kind := tpm2.TPMHT(h >> 24) // #nosec G115 -- the first byte
	return kind == tpm2.TPMHTHMACSession || kind == tpm2.TPMHTPolicySession
}

// leave flushes what the connection left behind.
func (g *guest) leave() {
	_ = g.conn.Close() // all is said
	g.tpm.mu.Lock()
	defer g.tpm.mu.Unlock()
	delete(g.tpm.connections, g.conn)
	g.flushLocked()
}

// flushLocked flushes what a connection has loaded.
func (g *guest) flushLocked() {
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

// handleAt returns the i-th word after the header of a command or response that has one.
func handleAt(b []byte, i int) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(b[headerBytes+4*i:]))
}

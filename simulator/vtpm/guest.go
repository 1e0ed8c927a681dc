package vtpm

import (
	"encoding/binary"
	"errors"
	"net"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
)

// attributes says of a command how many handles it begins with, and whether its response begins
// with one.
type attributes struct {
	handles  int
	response bool
}

// readAttributes asks the TPM about all its commands, as the kernel's resource manager does (TPM
// 2.0 Part 2, 8.9).
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
	if err := g.enter(); err != nil {
		return refusal(err)
	}
	named := namedHandle(command)
	if code := g.translate(command); code != tpm2.TPMRCSuccess {
		return failure(code), nil
	}
	rsp, err := g.tpm.sendLocked(command)
	if err != nil {
		return nil, err
	}
	return g.track(commandCode(command), named, rsp), nil
}

// refusal answers with the TPM's code, if err has one.
func refusal(err error) ([]byte, error) {
	if code, ok := errors.AsType[tpm2.TPMRC](err); ok {
		return failure(code), nil
	}
	return nil, err
}

// namedHandle returns the first word after the header, which in the commands that end something is
// its handle.
func namedHandle(command []byte) tpm2.TPMHandle {
	if len(command) < headerBytes+4 {
		return tpm2.TPMRHNull
	}
	return handleAt(command, 0)
}

// translate puts the TPM's handles of transient objects in the place of the guest's. It returns the
// code for a command that names what this guest may not use: the platform hierarchy, which the
// platform closes before the guest starts, and objects that it has not loaded, be they another's or
// nobody's.
func (g *guest) translate(command []byte) tpm2.TPMRC {
	code := commandCode(command)
	if code == tpm2.TPMCCFlushContext && len(command) >= headerBytes+4 && !g.translateAt(command, 0) {
		return rcHandleParameter1
	}
	for i := range g.tpm.commands[code].handles {
		if len(command) < headerBytes+4*(i+1) {
			break // the TPM will say so
		}
		at := tpm2.TPMRC(i) // #nosec G115 -- at most 3
		if handleAt(command, i) == tpm2.TPMRHPlatform {
			return tpm2.TPMRCHierarchy | (at+1)<<8
		}
		if !g.translateAt(command, i) {
			return tpm2.TPMRCReferenceH0 + at
		}
	}
	return tpm2.TPMRCSuccess
}

// translateAt translates the i-th handle of a command. Other handles than those of transient
// objects mean the same to all.
func (g *guest) translateAt(command []byte, i int) bool {
	h := handleAt(command, i)
	if !transient(h) {
		return true
	}
	e, found := g.space[h]
	if found {
		setHandle(command, i, e.real)
	}
	return found
}

// track notes what the guest has loaded or ended by a command, and returns the response as the
// guest is to see it.
func (g *guest) track(code tpm2.TPMCC, named tpm2.TPMHandle, rsp []byte) []byte {
	if len(rsp) < headerBytes || binary.BigEndian.Uint32(rsp[6:]) != 0 {
		return rsp
	}
	switch {
	case g.tpm.commands[code].response && len(rsp) >= headerBytes+4:
		setHandle(rsp, 0, g.adopt(handleAt(rsp, 0)))
	case code == tpm2.TPMCCFlushContext || code == tpm2.TPMCCContextSave && session(named):
		delete(g.space, named)
	case code == tpm2.TPMCCGetCapability:
		return g.ownHandles(rsp)
	}
	return rsp
}

// ownHandles leaves in a list of transient objects (TPM 2.0 Part 3, 30.2) those of this guest, by
// the names that it knows.
func (g *guest) ownHandles(rsp []byte) []byte {
	s := cryptobyte.String(rsp)
	var tag uint16
	var capability, count, h uint32
	if !s.ReadUint16(&tag) || !s.Skip(headerBytes-2+1) || !s.ReadUint32(&capability) || !s.ReadUint32(&count) ||
		tpm2.TPMST(tag) != tpm2.TPMSTNoSessions || tpm2.TPMCap(capability) != tpm2.TPMCapHandles {
		return rsp
	}
	var own []tpm2.TPMHandle
	for s.ReadUint32(&h) {
		if !transient(tpm2.TPMHandle(h)) {
			return rsp // a list is of one kind
		}
		if seen, found := g.seenAs(tpm2.TPMHandle(h)); found {
			own = append(own, seen)
		}
	}
	slices.Sort(own)
	body := rsp[headerBytes : headerBytes+5 : headerBytes+5]     // whether there are more, and the capability
	body = binary.BigEndian.AppendUint32(body, uint32(len(own))) // #nosec G115 -- a few
	for _, h := range own {
		body = binary.BigEndian.AppendUint32(body, uint32(h))
	}
	return success(tpm2.TPMSTNoSessions, body)
}

func transient(h tpm2.TPMHandle) bool { return byte(h>>24) == byte(tpm2.TPMHTTransient) }

// session reports whether a handle is a session's. One that its client has saved leaves the TPM,
// and the kernel's resource manager, when it does not find it any more, forgets it: it outlives the
// connection, and any client that has the saved context can load it.
func session(h tpm2.TPMHandle) bool {
	kind := tpm2.TPMHT(h >> 24) // #nosec G115 -- the first byte
	return kind == tpm2.TPMHTHMACSession || kind == tpm2.TPMHTPolicySession
}

// leave flushes what the connection left behind.
func (g *guest) leave() {
	_ = g.conn.Close() // nothing more is sent
	g.tpm.mu.Lock()
	defer g.tpm.mu.Unlock()
	delete(g.tpm.guests, g)
	g.flush()
	if g.tpm.resident == g {
		g.tpm.resident = nil
	}
}

// commandCode returns the code of a command, which readCommand has found long enough.
func commandCode(command []byte) tpm2.TPMCC { return tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])) }

// handleAt returns the i-th word after the header of a command or response that has one.
func handleAt(b []byte, i int) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(b[headerBytes+4*i:]))
}

func setHandle(b []byte, i int, h tpm2.TPMHandle) {
	binary.BigEndian.PutUint32(b[headerBytes+4*i:], uint32(h))
}

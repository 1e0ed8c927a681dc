package vtpm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/crypto/cryptobyte"
)

const (
	reportBytes   = 2600 // of the NV index on Azure
	userDataBytes = 64
)

// Response codes as the reference TPM gives them for commands on NV (TPM 2.0 Part 2, 6.6).
const (
	rcHandle1          = tpm2.TPMRCHandle | 0x100  // the first handle names nothing
	rcHandleParameter1 = tpm2.TPMRCHandle | 0x140  // the same, where the handle is a parameter
	rcBadAuthSession1  = tpm2.TPMRCBadAuth | 0x900 // the first session's password is wrong
	rcValueParameter1  = tpm2.TPMRCValue | 0x1c0   // the first parameter is out of range
)

// hclReport stands for NV index 0x01400001. It has a lock of its own, because a report is made
// while the TPM is free: its maker may use it.
type hclReport struct {
	mu      sync.Mutex
	maker   func(userData []byte) ([]byte, error)
	current []byte // reportBytes, zero padded
}

// SetHCLReport says how a report is made. f is called when offset 0 of the index is read, with the
// 64 bytes of NV index 0x01400002, or zeros if the guest never wrote them; it returns at most 2600
// bytes. Until SetHCLReport was called, and with a nil f, the index is not defined. f may use the
// TPM, but not read the report.
func (t *TPM) SetHCLReport(f func(userData []byte) ([]byte, error)) {
	t.report.mu.Lock()
	defer t.report.mu.Unlock()
	t.report.maker, t.report.current = f, nil
}

// answerReport answers TPM2_NV_ReadPublic and TPM2_NV_Read of the report's index. Other commands
// are not its business.
func (t *TPM) answerReport(command []byte) (rsp []byte, done bool) {
	s := cryptobyte.String(command)
	var tag uint16
	var first, second uint32
	if !s.ReadUint16(&tag) || !s.Skip(8) || !s.ReadUint32(&first) {
		return nil, false
	}
	switch commandCode(command) {
	case tpm2.TPMCCNVReadPublic:
		if tpm2.TPMHandle(first) == nvHCLReport {
			return t.report.readPublic(tpm2.TPMST(tag)), true
		}
	case tpm2.TPMCCNVRead:
		if s.ReadUint32(&second) && tpm2.TPMHandle(second) == nvHCLReport {
			return t.readReport(tpm2.TPMST(tag), tpm2.TPMHandle(first), s), true
		}
	}
	return nil, false
}

// readPublic answers TPM2_NV_ReadPublic (TPM 2.0 Part 3, 31.6).
func (r *hclReport) readPublic(tag tpm2.TPMST) []byte {
	if !r.defined() {
		return failure(rcHandle1)
	}
	if tag != tpm2.TPMSTNoSessions {
		return failure(tpm2.TPMRCAuthContext)
	}
	public := platformIndex(nvHCLReport, reportBytes)
	public.Attributes.Written = true
	name, err := tpm2.NVName(&public)
	if err != nil {
		return failure(tpm2.TPMRCFailure)
	}
	var b cryptobyte.Builder
	addSized(&b, tpm2.Marshal(public))
	addSized(&b, name.Buffer)
	return success(tpm2.TPMSTNoSessions, b.BytesOrPanic()) // impossible: two short buffers
}

func (r *hclReport) defined() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.maker != nil
}

// readReport answers TPM2_NV_Read (TPM 2.0 Part 3, 31.13): auth is what follows the handles.
func (t *TPM) readReport(tag tpm2.TPMST, authHandle tpm2.TPMHandle, rest cryptobyte.String) []byte {
	if !t.report.defined() {
		return failure(rcHandle1 + 0x100) // the second handle
	}
	if tag != tpm2.TPMSTSessions {
		return failure(tpm2.TPMRCAuthMissing)
	}
	password, ok := readPassword(&rest)
	if !ok {
		return failure(tpm2.TPMRCAuthContext) // this index takes a password session only
	}
	if authHandle != tpm2.TPMRHOwner || len(password) != 0 {
		return failure(rcBadAuthSession1) // the index' own authorization value is the paravisor's secret
	}
	var size, offset uint16
	if !rest.ReadUint16(&size) || !rest.ReadUint16(&offset) || !rest.Empty() {
		return failure(tpm2.TPMRCCommandSize)
	}
	if size > nvChunkBytes {
		return failure(rcValueParameter1)
	}
	if int(size)+int(offset) > reportBytes {
		return failure(tpm2.TPMRCNVRange)
	}
	report, err := t.currentReport(offset == 0)
	if err != nil {
		return failure(tpm2.TPMRCFailure)
	}
	return readResponse(report[offset : offset+size])
}

// readPassword reads an authorization area that is one password session (TPM 2.0 Part 1, 18.4).
func readPassword(rest *cryptobyte.String) ([]byte, bool) {
	var size, handle uint32
	var area []byte
	if !rest.ReadUint32(&size) || size > maxMessageBytes || !rest.ReadBytes(&area, int(size)) {
		return nil, false
	}
	s := cryptobyte.String(area)
	var nonce, password cryptobyte.String
	var attributes uint8
	ok := s.ReadUint32(&handle) && tpm2.TPMHandle(handle) == tpm2.TPMRSPW &&
		s.ReadUint16LengthPrefixed(&nonce) && s.ReadUint8(&attributes) &&
		s.ReadUint16LengthPrefixed(&password) && s.Empty()
	return bytes.TrimRight(password, "\x00"), ok
}

// currentReport returns the report, a new one if it is read from its beginning.
func (t *TPM) currentReport(fresh bool) ([]byte, error) {
	userData := make([]byte, userDataBytes)
	if fresh {
		var err error
		if userData, err = t.userData(); err != nil {
			return nil, err
		}
	}
	t.report.mu.Lock()
	defer t.report.mu.Unlock()
	if !fresh && t.report.current != nil {
		return t.report.current, nil
	}
	made, err := t.report.maker(userData)
	if err != nil {
		return nil, err
	}
	if len(made) > reportBytes {
		return nil, fmt.Errorf("HCL report of %d bytes", len(made))
	}
	t.report.current = append(made[:len(made):len(made)], make([]byte, reportBytes-len(made))...)
	return t.report.current, nil
}

// userData reads what the guest wants in the report; zeros if it never said.
func (t *TPM) userData() ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	data, err := readUserData(locked{t})
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCNVUninitialized) {
		return make([]byte, userDataBytes), nil
	}
	return data, err
}

func readUserData(t transport.TPM) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: nvUserData}.Execute(t)
	if err != nil {
		return nil, err
	}
	data, err := tpm2.NVRead{
		AuthHandle: emptyAuth(tpm2.TPMRHOwner),
		NVIndex:    tpm2.NamedHandle{Handle: nvUserData, Name: public.NVName},
		Size:       userDataBytes,
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	return data.Data.Buffer, nil
}

// readResponse is the response to TPM2_NV_Read under a password session.
func readResponse(data []byte) []byte {
	var b cryptobyte.Builder
	b.AddUint32LengthPrefixed(func(b *cryptobyte.Builder) { addSized(b, data) })
	b.AddBytes([]byte{0, 0, 1, 0, 0})                    // no nonce, continueSession, no password
	return success(tpm2.TPMSTSessions, b.BytesOrPanic()) // impossible: data fits its length fields
}

func addSized(b *cryptobyte.Builder, data []byte) {
	b.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(data) })
}

// success is a response with the given body.
func success(tag tpm2.TPMST, body []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tag))
	b = binary.BigEndian.AppendUint32(b, uint32(headerBytes+len(body))) // #nosec G115 -- a few KB
	b = binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMRCSuccess))
	return append(b, body...)
}

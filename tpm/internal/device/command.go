package device

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// layerBits are bits 16 to 23 of a response code: which layer of the software stack made it. The
// kernel's resource manager sets 0x0B. TPM 2.0 Part 2, 6.6.2 leaves them to the TSS (TCG TSS 2.0
// Overview, 5.3.2).
const layerBits = 0x00ff0000

// commandCode returns the command code of a command (TPM 2.0 Part 3, 5.2), or 0 if it is too short
// to have one.
func commandCode(input []byte) tpm2.TPMCC {
	if len(input) < HeaderBytes {
		return 0
	}
	return tpm2.TPMCC(binary.BigEndian.Uint32(input[6:]))
}

// ResponseCode returns the response code of a whole response.
func ResponseCode(rsp []byte) tpm2.TPMRC { return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) }

// clearLayer removes a resource manager's layer bits from the code of an error, so that it compares
// equal to the TPM's. A success has none: with them it is nobody's answer.
func clearLayer(rsp []byte) {
	if code := ResponseCode(rsp) &^ layerBits; code != tpm2.TPMRCSuccess {
		binary.BigEndian.PutUint32(rsp[6:], uint32(code))
	}
}

// newHandle returns the handle of the object or session that a successful command made, if it is
// one that makes any.
func newHandle(input, rsp []byte) (tpm2.TPMHandle, bool) {
	if !makesHandle(commandCode(input)) || len(rsp) < HeaderBytes+4 || ResponseCode(rsp) != tpm2.TPMRCSuccess {
		return 0, false
	}
	return handleAt(rsp, HeaderBytes), true
}

// makesHandle reports whether a command makes an object or session, whose handle is in its
// response.
func makesHandle(code tpm2.TPMCC) bool {
	switch code {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCLoad, tpm2.TPMCCLoadExternal, tpm2.TPMCCContextLoad, tpm2.TPMCCCreateLoaded,
		tpm2.TPMCCStartAuthSession, tpm2.TPMCCMACStart, tpm2.TPMCCHashSequenceStart:
		return true
	}
	return false
}

// handleAt reads a handle out of a command or response that is long enough.
func handleAt(b []byte, offset int) tpm2.TPMHandle {
	return tpm2.TPMHandle(binary.BigEndian.Uint32(b[offset:]))
}

// flushCommand is TPM2_FlushContext of a handle (TPM 2.0 Part 3, 28.4).
func flushCommand(h tpm2.TPMHandle) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, HeaderBytes+4)
	b = binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMCCFlushContext))
	return binary.BigEndian.AppendUint32(b, uint32(h))
}

// isFlush reports whether a command is a TPM2_FlushContext.
func isFlush(input []byte) bool {
	return commandCode(input) == tpm2.TPMCCFlushContext && len(input) == HeaderBytes+4
}

// flushed is the response to a successful TPM2_FlushContext.
func flushed() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, HeaderBytes)
	return binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMRCSuccess))
}

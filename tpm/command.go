package tpm

import (
	"encoding/binary"

	"github.com/google/go-tpm/tpm2"
)

// commandCode returns the command code of a command (TPM 2.0 Part 3, 5.2), or 0 if it is too short to have one.
func commandCode(input []byte) tpm2.TPMCC {
	if len(input) < headerBytes {
		return 0
	}
	return tpm2.TPMCC(binary.BigEndian.Uint32(input[6:]))
}

// responseCode returns the response code of a whole response.
func responseCode(rsp []byte) tpm2.TPMRC { return tpm2.TPMRC(binary.BigEndian.Uint32(rsp[6:])) }

// clearLayer removes a resource manager's layer bits from the code of an error, so that it compares equal to the TPM's. A
// success has none: with them it is nobody's answer.
func clearLayer(rsp []byte) {
	if code := responseCode(rsp) &^ layerBits; code != tpm2.TPMRCSuccess {
		binary.BigEndian.PutUint32(rsp[6:], uint32(code))
	}
}

// newHandle returns the handle of the object or session that a successful command made, if it is one that makes any.
func newHandle(input, rsp []byte) (tpm2.TPMHandle, bool) {
	if !makesHandle(commandCode(input)) || len(rsp) < headerBytes+4 || responseCode(rsp) != tpm2.TPMRCSuccess {
		return 0, false
	}
	return handleAt(rsp, headerBytes), true
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
	b = binary.BigEndian.AppendUint32(b, headerBytes+4)
	b = binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMCCFlushContext))
	return binary.BigEndian.AppendUint32(b, uint32(h))
}

// isFlush reports whether a command is a TPM2_FlushContext.
func isFlush(input []byte) bool {
	return commandCode(input) == tpm2.TPMCCFlushContext && len(input) == headerBytes+4
}

// flushed is the response to a successful TPM2_FlushContext.
func flushed() []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMSTNoSessions))
	b = binary.BigEndian.AppendUint32(b, headerBytes)
	return binary.BigEndian.AppendUint32(b, uint32(tpm2.TPMRCSuccess))
}

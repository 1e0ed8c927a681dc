package vtpm_test

import (
	"encoding/binary"
	"net"
	"slices"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// FuzzReadReport: whatever a client writes after the handles of an NV_Read of the report, it gets a well-formed response.
func FuzzReadReport(f *testing.F) {
	f.Add([]byte{0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 4, 0, 0, 0}, true)
	f.Add([]byte{0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 4, 1, 10, 0x28}, true)
	f.Add([]byte{0xff, 0xff, 0xff, 0xff}, true)
	f.Add([]byte{}, false)
	v := tpmtest.Simulator(f)
	v.SetHCLReport(func([]byte) ([]byte, error) { return make([]byte, 2600), nil })
	f.Fuzz(func(t *testing.T, rest []byte, sessions bool) {
		if len(rest) > 4000 {
			return
		}
		handles := binary.BigEndian.AppendUint32(nil, uint32(tpm2.TPMRHOwner))
		handles = binary.BigEndian.AppendUint32(handles, uint32(collect.NVHCLReport))
		exchange(t, v.Device(), tpm2.TPMCCNVRead, append(handles, rest...), sessions)
	})
}

// FuzzHandles: whatever handles and parameters a client writes in commands that name objects, load or list them, it gets a well-formed
// response, and what another connection has stays what it is.
func FuzzHandles(f *testing.F) {
	f.Add(uint32(tpm2.TPMCCReadPublic), []byte{0x80, 0, 0, 0}, false)
	f.Add(uint32(tpm2.TPMCCFlushContext), []byte{0x80, 0, 0, 0}, false)
	f.Add(uint32(tpm2.TPMCCFlushContext), []byte{0x80, 0}, true)
	f.Add(uint32(tpm2.TPMCCContextSave), []byte{0x80, 0, 0, 1}, false)
	f.Add(uint32(tpm2.TPMCCGetCapability), []byte{0, 0, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 9}, false)
	f.Add(uint32(tpm2.TPMCCCertify), []byte{0x80, 0, 0, 0, 0x80, 0}, true)
	f.Add(uint32(0), []byte{}, false)
	v := tpmtest.Bare(f)
	other, err := tpm.Open(f.Context(), tpm.Config{Device: v.Device()})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = other.Close() })
	if err := other.Do(f.Context(), createPrimary); err != nil {
		f.Fatal(err)
	}
	named := []tpm2.TPMCC{tpm2.TPMCCReadPublic, tpm2.TPMCCFlushContext, tpm2.TPMCCContextSave, tpm2.TPMCCContextLoad, tpm2.TPMCCGetCapability, tpm2.TPMCCCertify, tpm2.TPMCCLoadExternal}
	f.Fuzz(func(t *testing.T, code uint32, rest []byte, sessions bool) {
		if len(rest) > 4000 || !slices.Contains(named, tpm2.TPMCC(code)) { // others may clear the TPM, rightly
			return
		}
		exchange(t, v.Device(), tpm2.TPMCC(code), rest, sessions)
		if _, _, err := other.ReadPublic(t.Context(), 0x80000000); err != nil {
			t.Errorf("another connection's object: %v", err)
		}
	})
}

// exchange sends a command on a connection of its own and checks the form of the response.
func exchange(t *testing.T, device string, code tpm2.TPMCC, rest []byte, sessions bool) {
	t.Helper()
	conn, err := net.Dial("unix", device[len("unix:"):])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	tag := tpm2.TPMSTNoSessions
	if sessions {
		tag = tpm2.TPMSTSessions
	}
	cmd := binary.BigEndian.AppendUint16(nil, uint16(tag))
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(10+len(rest))) // #nosec G115 -- short
	cmd = binary.BigEndian.AppendUint32(cmd, uint32(code))
	if _, err := conn.Write(append(cmd, rest...)); err != nil {
		t.Fatal(err)
	}
	rsp := make([]byte, 4096)
	n, err := conn.Read(rsp)
	if err != nil || n < 10 || binary.BigEndian.Uint32(rsp[2:]) != uint32(n) { // #nosec G115 -- at most 4096
		t.Errorf("%d bytes, %v", n, err)
	}
}

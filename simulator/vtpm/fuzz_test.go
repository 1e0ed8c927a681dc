package vtpm_test

import (
	"encoding/binary"
	"net"
	"testing"

	"github.com/google/go-tpm/tpm2"

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
		conn, err := net.Dial("unix", v.Device()[len("unix:"):])
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		tag := tpm2.TPMSTNoSessions
		if sessions {
			tag = tpm2.TPMSTSessions
		}
		cmd := binary.BigEndian.AppendUint16(nil, uint16(tag))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(18+len(rest))) // #nosec G115 -- short
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMCCNVRead))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm2.TPMRHOwner))
		cmd = binary.BigEndian.AppendUint32(cmd, uint32(tpm.NVHCLReport))
		if _, err := conn.Write(append(cmd, rest...)); err != nil {
			t.Fatal(err)
		}
		rsp := make([]byte, 4096)
		n, err := conn.Read(rsp)
		if err != nil || n < 10 || binary.BigEndian.Uint32(rsp[2:]) != uint32(n) { // #nosec G115 -- at most 4096
			t.Errorf("%d bytes, %v", n, err)
		}
	})
}

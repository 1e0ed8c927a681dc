package tpm_test

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

const testIndex tpm2.TPMHandle = 0x01500001

// defineNV makes an index for the owner and writes data into it; nil data leaves it unwritten.
func defineNV(t *testing.T, c transport.TPM, size int, data []byte) error {
	t.Helper()
	_, err := tpm2.NVDefineSpace{
		AuthHandle: tpm2.TPMRHOwner,
		PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: testIndex, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(size),
			Attributes: tpm2.TPMANV{NT: tpm2.TPMNTOrdinary, OwnerRead: true, OwnerWrite: true, NoDA: true},
		}),
	}.Execute(c)
	for off := 0; err == nil && off < len(data); off += 1024 {
		var public *tpm2.NVReadPublicResponse
		if public, err = (tpm2.NVReadPublic{NVIndex: testIndex}).Execute(c); err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: testIndex, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: data[off:min(len(data), off+1024)]}, Offset: uint16(off),
		}.Execute(c)
	}
	return err
}

func TestReadNVInChunks(t *testing.T) {
	t.Parallel()
	for name, device := range map[string]func(testing.TB) string{
		"simulator": func(t testing.TB) string { return tpmtest.Bare(t).Device() },
		"swtpm":     func(t testing.TB) string { return tpmtest.Swtpm(t).Device() },
	} {
		for _, size := range []int{1, 64, 1023, 1024, 1025, 2047, 2048} {
			t.Run(fmt.Sprintf("%s/%d bytes", name, size), func(t *testing.T) {
				on := tpmtest.Connect(t, device(t))
				want := make([]byte, size)
				_, _ = rand.Read(want)
				do(t, on, func(c transport.TPM) error { return defineNV(t, c, size, want) })
				got, err := on.ReadNV(t.Context(), testIndex)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("read %d other bytes", len(got))
				}
			})
		}
	}
}

func TestReadNVRefuses(t *testing.T) {
	t.Parallel()
	on := tpmtest.Open(t)
	_, err := on.ReadNV(t.Context(), testIndex)
	fails(t, err, tpm.ErrNoNVIndex)
	do(t, on, func(c transport.TPM) error { return defineNV(t, c, 64, nil) })
	_, err = on.ReadNV(t.Context(), testIndex)
	fails(t, err, tpm2.TPMRCNVUninitialized)
	if err != nil && !strings.Contains(err.Error(), "nothing was ever written") {
		t.Error(err)
	}
}

// Only a read at offset 0 makes a new HCL report: one pass must touch it once.
func TestReadNVMakesOneReport(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	if _, err := on.ReadNV(t.Context(), nvHCLReport); err == nil {
		t.Error("a report before there is one")
	}
	var made int
	report := make([]byte, 2500)
	_, _ = rand.Read(report)
	v.SetHCLReport(func([]byte) ([]byte, error) { made++; report[0] = byte(made); return report, nil })
	for range 3 {
		got, err := on.ReadNV(t.Context(), nvHCLReport)
		if err != nil {
			t.Fatal(err)
		}
		if len(got) != 2600 || !bytes.Equal(got[:2500], report) || !bytes.Equal(got[2500:], make([]byte, 100)) {
			t.Errorf("read %d bytes that are not the report", len(got))
		}
	}
	if made != 3 {
		t.Errorf("%d reports for 3 readings", made)
	}
}

func TestReadNVOfTheAKCertificate(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	want := bytes.Repeat([]byte("certificate"), 130)
	if err := v.SetAKCertificate(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	got, err := on.ReadNV(t.Context(), nvAKCertificate)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

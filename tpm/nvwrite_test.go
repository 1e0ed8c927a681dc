package tpm_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func TestPutNV(t *testing.T) {
	t.Parallel()
	for name, device := range map[string]func(testing.TB) string{
		"simulator": func(t testing.TB) string { return tpmtest.Bare(t).Device() },
		"swtpm":     func(t testing.TB) string { return tpmtest.Swtpm(t).Device() },
	} {
		t.Run(name, func(t *testing.T) {
			on := tpmtest.Connect(t, device(t))
			for _, data := range [][]byte{
				bytes.Repeat([]byte{1}, 64), // it is not there yet
				bytes.Repeat([]byte{2}, 64), // it is, and was written
				bytes.Repeat([]byte{3}, 32), // in another size
				bytes.Repeat([]byte{4}, 512),
			} {
				if err := on.PutNV(t.Context(), testIndex, data); err != nil {
					t.Fatal(err)
				}
				if got, err := on.ReadNV(t.Context(), testIndex); err != nil || !bytes.Equal(got, data) {
					t.Errorf("wrote %d bytes, read %d, %v", len(data), len(got), err)
				}
			}
			do(t, on, func(c transport.TPM) error {
				rsp, err := tpm2.NVReadPublic{NVIndex: testIndex}.Execute(c)
				if err != nil {
					return err
				}
				public, err := rsp.NVPublic.Contents()
				if err == nil && (!public.Attributes.OwnerRead || !public.Attributes.OwnerWrite || public.Attributes.AuthWrite || public.Attributes.AuthRead) {
					t.Errorf("attributes %+v", public.Attributes)
				}
				return err
			})
		})
	}
}

func TestPutNVRefuses(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	on := tpmtest.Connect(t, v.Device())
	if err := v.SetAKCertificate(t.Context(), make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		index tpm2.TPMHandle
		size  int
		want  string
	}{
		"nothing":                {testIndex, 0, "want 1 to 512"},
		"too much":               {testIndex, 513, "want 1 to 512"},
		"another size there":     {nvAKCertificate, 64, "the platform made it"},
		"an index of others":     {nvAKCertificate, 100, ""},
		"a handle that is a key": {handleAK, 64, ""},
	} {
		if err := on.PutNV(t.Context(), tt.index, make([]byte, tt.size)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

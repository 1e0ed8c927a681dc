package vtpm_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/simulator/vtpm"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

func sum(b []byte) []byte { d := sha256.Sum256(b); return d[:] }

// reporting starts a TPM whose reports begin with the user data and a number.
func reporting(t *testing.T) (*vtpm.TPM, *tpm.TPM) {
	t.Helper()
	v := tpmtest.Simulator(t)
	var made byte
	v.SetHCLReport(func(userData []byte) ([]byte, error) {
		made++
		return append(bytes.Clone(userData), made), nil
	})
	return v, tpmtest.Connect(t, v.Device())
}

// read reads a part of the report, as owner with an empty password unless changed.
func read(c transport.TPM, size, offset uint16, change func(*tpm2.NVRead)) ([]byte, error) {
	public, err := tpm2.NVReadPublic{NVIndex: collect.NVHCLReport}.Execute(c)
	if err != nil {
		return nil, err
	}
	cmd := tpm2.NVRead{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		NVIndex:    tpm2.NamedHandle{Handle: collect.NVHCLReport, Name: public.NVName},
		Size:       size, Offset: offset,
	}
	if change != nil {
		change(&cmd)
	}
	rsp, err := cmd.Execute(c)
	if err != nil {
		return nil, err
	}
	return rsp.Data.Buffer, nil
}

func TestHCLReportIndex(t *testing.T) {
	t.Parallel()
	_, on := reporting(t)
	do(t, on, func(c transport.TPM) error {
		rsp, err := tpm2.NVReadPublic{NVIndex: collect.NVHCLReport}.Execute(c)
		if err != nil {
			return err
		}
		public, err := rsp.NVPublic.Contents()
		if err != nil {
			return err
		}
		name, err := tpm2.NVName(public)
		if err != nil {
			return err
		}
		a := public.Attributes
		if public.DataSize != 2600 || !a.OwnerRead || !a.AuthRead || !a.NoDA || !a.PlatformCreate || !a.Written || a.OwnerWrite ||
			!bytes.Equal(name.Buffer, rsp.NVName.Buffer) {
			t.Errorf("%+v, name %x", public, rsp.NVName.Buffer)
		}
		return nil
	})
}

func TestHCLReportIsMadeByReadingOffsetZero(t *testing.T) {
	t.Parallel()
	_, on := reporting(t)
	do(t, on, func(c transport.TPM) error {
		for _, want := range []byte{1, 2} {
			b, err := read(c, 64, 0, nil)
			if err != nil || !bytes.Equal(b, make([]byte, 64)) {
				t.Errorf("without user data: % x, %v", b, err)
			}
			for range 2 { // further up it stays the same report
				if b, err := read(c, 1, 64, nil); err != nil || !bytes.Equal(b, []byte{want}) {
					t.Errorf("number % x, want %d, %v", b, want, err)
				}
			}
		}
		return nil
	})
}

func TestHCLReportCarriesTheUserData(t *testing.T) {
	t.Parallel()
	v, on := reporting(t)
	want := bytes.Repeat([]byte{0xab}, 64)
	do(t, on, func(c transport.TPM) error {
		_, err := tpm2.NVDefineSpace{AuthHandle: tpm2.TPMRHOwner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: collect.NVUserData, NameAlg: tpm2.TPMAlgSHA256, DataSize: 64,
			Attributes: tpm2.TPMANV{NT: tpm2.TPMNTOrdinary, OwnerRead: true, OwnerWrite: true, NoDA: true},
		})}.Execute(c)
		if err != nil {
			return err
		}
		if b, err := read(c, 64, 0, nil); err != nil || !bytes.Equal(b, make([]byte, 64)) {
			t.Errorf("user data defined, not written: % x, %v", b, err)
		}
		public, err := tpm2.NVReadPublic{NVIndex: collect.NVUserData}.Execute(c)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.TPMRHOwner,
			NVIndex:    tpm2.NamedHandle{Handle: collect.NVUserData, Name: public.NVName},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: want},
		}.Execute(c)
		return err
	})
	if err := v.Reset(t.Context()); err != nil { // the index is in NV
		t.Fatal(err)
	}
	report, err := on.ReadNV(t.Context(), collect.NVHCLReport)
	if err != nil || len(report) != 2600 || !bytes.HasPrefix(report, want) {
		t.Errorf("%d bytes, %v", len(report), err)
	}
}

func TestHCLReportRefuses(t *testing.T) {
	t.Parallel()
	v, on := reporting(t)
	tests := []struct {
		name         string
		size, offset uint16
		change       func(*tpm2.NVRead)
		want         tpm2.TPMRC
	}{
		{"more than fits a buffer", 1025, 0, nil, tpm2.TPMRCValue},
		{"beyond the end", 1, 2600, nil, tpm2.TPMRCNVRange},
		{"across the end", 101, 2500, nil, tpm2.TPMRCNVRange},
		{"a wrong owner password", 1, 0, func(r *tpm2.NVRead) {
			r.AuthHandle = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth([]byte("guess"))}
		}, tpm2.TPMRCBadAuth},
		{"the index' own authorization", 1, 0, func(r *tpm2.NVRead) {
			n := r.NVIndex.(tpm2.NamedHandle)
			r.AuthHandle = tpm2.AuthHandle{Handle: n.Handle, Name: n.Name, Auth: tpm2.PasswordAuth(nil)}
		}, tpm2.TPMRCBadAuth},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := on.Do(t.Context(), func(c transport.TPM) error { _, err := read(c, tt.size, tt.offset, tt.change); return err })
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
	t.Run("a maker that fails", func(t *testing.T) {
		v.SetHCLReport(func([]byte) ([]byte, error) { return nil, errors.New("no") })
		_, err := on.ReadNV(t.Context(), collect.NVHCLReport)
		if !errors.Is(err, tpm2.TPMRCFailure) {
			t.Error(err)
		}
	})
	t.Run("a report that is too long", func(t *testing.T) {
		v.SetHCLReport(func([]byte) ([]byte, error) { return make([]byte, 2601), nil })
		if _, err := on.ReadNV(t.Context(), collect.NVHCLReport); err == nil {
			t.Error("it was given out")
		}
	})
	t.Run("an index that is not there", func(t *testing.T) {
		v.SetHCLReport(nil)
		if _, err := on.ReadNV(t.Context(), collect.NVHCLReport); !errors.Is(err, tpm.ErrNoNVIndex) {
			t.Error(err)
		}
	})
}

// The maker of a report may use the TPM.
func TestTheReportsMakerMayAskTheTPM(t *testing.T) {
	t.Parallel()
	v := tpmtest.Simulator(t)
	v.SetHCLReport(func([]byte) ([]byte, error) {
		if _, err := (tpm2.GetRandom{BytesRequested: 8}).Execute(v); err != nil {
			return nil, err
		}
		return v.AKPublic(), nil
	})
	report, err := tpmtest.Connect(t, v.Device()).ReadNV(t.Context(), collect.NVHCLReport)
	if err != nil || !bytes.HasPrefix(report, v.AKPublic()) {
		t.Error(err)
	}
}

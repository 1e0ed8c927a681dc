package collect_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// BenchmarkCollect compares evidence, made, verified and encoded, with the commands that the TPM
// has to do for it, sent bare and one after the other: each with a password, and nothing of what
// they return verified. The simulated TPM answers sooner than any real one, so that what is
// computed here shows most; with 20 ms a command it is as slow as a discrete TPM.
func BenchmarkCollect(b *testing.B) {
	for _, tt := range []struct {
		name  string
		delay time.Duration
	}{{"slow", 20 * time.Millisecond}, {"simulated", 0}} {
		b.Run(tt.name, func(b *testing.B) { benchmarkCollect(b, tt.delay) })
	}
}

func benchmarkCollect(b *testing.B, delay time.Duration) {
	m := newVM(b)
	proxy := tpmtest.NewProxy(b, m.sim.Device())
	proxy.Handle(func(command []byte, forward tpmtest.Forward) ([]byte, error) {
		<-time.After(delay)
		return forward(command)
	})
	m.tpm = tpmtest.Connect(b, proxy.Device())
	m.config.TPM, m.config.Key = m.tpm, tpmtest.CreateKey(b, m.tpm)
	c := collect.New(m.config)
	ours := func() {
		e, err := c.Collect(b.Context(), challenge())
		if err == nil {
			_, err = e.Encode()
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	commands := bareCommands(b, m.tpm)
	bare := func() {
		if err := m.tpm.Do(b.Context(), commands); err != nil {
			b.Fatal(err)
		}
	}
	ours() // the host is asked once
	var mine, reference []time.Duration
	turns := []func(){
		func() { mine = append(mine, timed(ours)) },
		func() { reference = append(reference, timed(bare)) },
	}
	for i := 0; b.Loop(); i++ {
		turns[i%2]()
		turns[1-i%2]()
	}
	b.ReportMetric(float64(median(mine)), "ours-ns")
	b.ReportMetric(float64(median(reference)), "reference-ns")
}

func timed(f func()) time.Duration {
	began := time.Now()
	f()
	return time.Since(began)
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// bareCommands are what is needed of the TPM, each once: the attestation key's public area, both
// statements, the PCRs' values, and the content of the two NV indices. The key that is certified is
// the storage root, which costs the same.
func bareCommands(b *testing.B, on *tpm.TPM) func(transport.TPM) error {
	b.Helper()
	const storageRoot tpm2.TPMHandle = 0x81000001
	_, rootName, err := on.ReadPublic(b.Context(), storageRoot)
	if err != nil {
		b.Fatal(err)
	}
	root := tpm2.AuthHandle{Handle: storageRoot, Name: tpm2.TPM2BName{Buffer: rootName}, Auth: tpm2.PasswordAuth(nil)}
	return func(dev transport.TPM) error {
		ak, err := tpm2.ReadPublic{ObjectHandle: collect.HandleAK}.Execute(dev)
		if err != nil {
			return err
		}
		signer := tpm2.AuthHandle{Handle: collect.HandleAK, Name: ak.Name, Auth: tpm2.PasswordAuth(nil)}
		return errors.Join(bareStatements(dev, root, signer), bareRead(dev, collect.NVHCLReport), bareRead(dev, collect.NVAKCertificate))
	}
}

func bareStatements(dev transport.TPM, root, signer tpm2.AuthHandle) error {
	scheme, nonce := tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull}, tpm2.TPM2BData{Buffer: make([]byte, 32)}
	if _, err := (tpm2.Certify{ObjectHandle: root, SignHandle: signer, QualifyingData: nonce, InScheme: scheme}).Execute(dev); err != nil {
		return err
	}
	pcrs := tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{
		{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(0, 1, 2, 3, 4, 5, 6, 7)},
	}}
	if _, err := (tpm2.Quote{SignHandle: signer, QualifyingData: nonce, InScheme: scheme, PCRSelect: pcrs}).Execute(dev); err != nil {
		return err
	}
	_, err := tpm2.PCRRead{PCRSelectionIn: pcrs}.Execute(dev)
	return err
}

// bareRead reads an NV index in the chunks that the TPM allows.
func bareRead(dev transport.TPM, index tpm2.TPMHandle) error {
	const chunk = 1024
	public, err := tpm2.NVReadPublic{NVIndex: index}.Execute(dev)
	if err != nil {
		return err
	}
	content, err := public.NVPublic.Contents()
	if err != nil {
		return err
	}
	for at := 0; at < int(content.DataSize); at += chunk {
		_, err := tpm2.NVRead{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
			NVIndex:    tpm2.NamedHandle{Handle: index, Name: public.NVName},
			Size:       uint16(min(chunk, int(content.DataSize)-at)), Offset: uint16(at),
		}.Execute(dev)
		if err != nil {
			return err
		}
	}
	return nil
}

package peers_test

import (
	"crypto"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	steptpm "go.step.sm/crypto/tpm"
	"go.step.sm/crypto/tpm/storage"

	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// step is a tenant of many TPMs, too: it makes the same storage key that Azure does, at the same
// handle. Whichever of them makes it first, the keys of both go on working, and ours also after
// that handle was freed.
func TestStepAndTheAgentShareATPM(t *testing.T) {
	s := scheme{"ECDSA", tpm.ECDSAP256, crypto.SHA256}
	for name, first := range map[string]bool{"step comes first": true, "the agent comes first": false} {
		t.Run(name, func(t *testing.T) {
			m := machine{device: tpmtest.Swtpm(t).Device(), dir: filepath.Join(t.TempDir(), "state")}
			if err := os.Mkdir(m.dir, 0o700); err != nil {
				t.Fatal(err)
			}
			ours := func(after func(on *tpm.TPM)) { // swtpm has one client at a time
				on, err := tpm.Open(t.Context(), tpm.Config{Device: m.device})
				if err != nil {
					t.Fatal(err)
				}
				defer mustClose(t, on)
				key := openKey(t, on, m, s)
				check(t, key, s)
				mustClose(t, key)
				after(on)
			}
			nothing := func(*tpm.TPM) {}
			if !first {
				ours(nothing)
			}
			other := tenantStep(t, m)
			check(t, other, s)
			ours(nothing)
			check(t, other, s)
			ours(func(on *tpm.TPM) { freeStorageRoot(t, on) })
			ours(nothing)
		})
	}
}

// tenantStep makes a key of step's, each command over a connection of its own.
func tenantStep(t *testing.T, m machine) crypto.Signer {
	t.Helper()
	on, err := steptpm.New(steptpm.WithDeviceName(m.socket()), steptpm.WithCommandChannel(&dialing{socket: m.socket()}),
		steptpm.WithStore(storage.NewDirstore(t.TempDir())))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := on.CreateKey(t.Context(), "tenant", steptpm.CreateKeyConfig{Algorithm: "ECDSA", Size: 256}); err != nil {
		t.Fatal(err)
	}
	by, err := on.GetSigner(t.Context(), "tenant")
	if err != nil {
		t.Fatal(err)
	}
	return by
}

// dialing connects for each command, and leaves the TPM free for others then.
type dialing struct {
	socket string
	conn   net.Conn
}

func (*dialing) MeasurementLog() ([]byte, error) { return nil, nil }
func (*dialing) Close() error                    { return nil }

func (d *dialing) Write(command []byte) (int, error) {
	var err error
	if d.conn, err = net.Dial("unix", d.socket); err != nil {
		return 0, err
	}
	return d.conn.Write(command)
}

func (d *dialing) Read(answer []byte) (int, error) {
	if d.conn == nil {
		return 0, io.EOF
	}
	n, err := d.conn.Read(answer)
	_ = d.conn.Close() // all is read
	d.conn = nil
	return n, err
}

func freeStorageRoot(t *testing.T, on *tpm.TPM) {
	t.Helper()
	_, name, err := on.ReadPublic(t.Context(), tpm.HandleSRK)
	if err != nil {
		t.Fatal(err)
	}
	err = on.Do(t.Context(), func(c transport.TPM) error {
		_, err := tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: tpm.HandleSRK, Name: tpm2.TPM2BName{Buffer: name}}, PersistentHandle: tpm.HandleSRK,
		}.Execute(c)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

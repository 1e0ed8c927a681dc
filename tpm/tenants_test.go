package tpm_test

import (
	"bytes"
	"crypto"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-attestation/attest"
	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"github.com/google/go-tpm/tpm2/transport/linuxudstpm"

	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/internal/tooltest"
	"github.com/keyagent/keyagent/tpm"
	"github.com/keyagent/keyagent/tpm/tpmtest"
)

// This file shares a TPM with its other usual tenants: whichever comes first, the keys of each go
// on working.

// The line that brings a storage key back is pasted as it is: it must make that very key. Other
// local users can read the arguments of all processes, and see no password there. Nothing is left
// behind, also where the line fails.
func TestCommandsThatRestoreAStorageKeyWorkWhenPasted(t *testing.T) {
	t.Parallel()
	tpm2Tools(t)
	const awkward = `hex:6b "$HOME"'s`
	for i, title := range tpm.KnownPrimaries() {
		for _, auth := range []string{"", awkward} {
			t.Run(fmt.Sprintf("%s, password %v", title, auth != ""), func(t *testing.T) {
				v := tpmtest.Swtpm(t)
				w := tpmtest.NewTools(t, v)
				if auth != "" {
					w.Run(t, "tpm2_changeauth", "-c", "o", "str:"+auth)
				}
				bin, temporary := noteArguments(t, w, "tpm2_createprimary", "tpm2_evictcontrol"), t.TempDir()
				w.Env = []string{"OWNER_PASSWORD=" + auth, "TMPDIR=" + temporary, "PATH=" + bin + ":" + os.Getenv("PATH")}
				line := tpm.PersistAt(i, elsewhere, auth != "")
				w.Run(t, "sh", "-ec", line)
				w.Fail(t, "sh", "-c", line) // something is at the handle now
				arguments := string(w.Read(t, "arguments"))
				if auth != "" && strings.Contains(arguments, auth) || strings.Count(arguments, "tpm2_evictcontrol") != 2 {
					t.Errorf("everybody sees %q", arguments)
				}
				if left, err := os.ReadDir(temporary); err != nil || len(left) > 0 {
					t.Errorf("left behind: %v, %v", left, err)
				}
				on := tpmtest.ConnectWith(t, tpm.Config{Device: v.Device(), OwnerAuth: func() (secret.String, error) { return secret.New(auth), nil }})
				_, got, err := on.ReadPublic(t.Context(), elsewhere)
				want, wantErr := on.PrimaryName(t.Context(), i)
				if err != nil || wantErr != nil || !bytes.Equal(got, want) {
					t.Errorf("the line made %x, %v; wanted %x, %v", got, err, want, wantErr)
				}
			})
		}
	}
}

// noteArguments makes a folder of programs that write to the file "arguments" with what they were
// called, and are then the real ones.
func noteArguments(t *testing.T, w *tpmtest.Tools, programs ...string) (bin string) {
	t.Helper()
	bin = t.TempDir()
	for _, program := range programs {
		script := fmt.Sprintf("#!/bin/sh\nprintf '%%s ' \"$0\" \"$@\" >>%q\nexec %q \"$@\"\n", w.Path("arguments"), tooltest.Tool(t, program))
		if err := os.WriteFile(filepath.Join(bin, program), []byte(script), 0o700); err != nil { // #nosec G306 -- it is run
			t.Fatal(err)
		}
	}
	return bin
}

// A tenant is another program that keeps keys in the TPM.
type tenant struct {
	name  string
	tools []string
	// settle makes the tenant's keys and returns what uses them.
	settle func(t *testing.T, v *tpmtest.SoftTPM) (use func())
	// alone says that the tenant gives up where another storage root is at the handle, whoever put
	// it there.
	alone bool
}

func tenants() []tenant {
	return []tenant{
		{"FAPI, ECC", []string{"tss2_provision", "tss2_createkey", "tss2_sign"}, fapi("P_ECCP256SHA256"), true},
		{"FAPI, RSA", []string{"tss2_provision", "tss2_createkey", "tss2_sign"}, fapi("P_RSA2048SHA256"), true},
		{"tpm2_ptool", []string{"tpm2_ptool"}, ptool, false},
		{"clevis", []string{"clevis", "clevis-encrypt-tpm2"}, clevis, false},
		{"systemd", nil, systemd, false},
		{"go-attestation", nil, goAttestation, false},
	}
}

func fapi(profile string) func(*testing.T, *tpmtest.SoftTPM) func() {
	return func(t *testing.T, v *tpmtest.SoftTPM) func() {
		w := tpmtest.NewTools(t, v)
		w.Write(t, "fapi.json", fmt.Appendf(nil, `{"profile_name": %q, "profile_dir": "/etc/tpm2-tss/fapi-profiles/",
			"user_dir": %q, "system_dir": %q, "log_dir": %q, "tcti": %q, "ek_cert_less": "yes", "system_pcrs": []}`,
			profile, w.Path("user"), w.Path("system"), w.Path("log"), w.TCTI(t)))
		w.Env = []string{"TSS2_FAPICONF=" + w.Path("fapi.json")}
		w.Write(t, "digest", make([]byte, crypto.SHA256.Size()))
		w.Run(t, "tss2_provision")
		w.Run(t, "tss2_createkey", "--path", "HS/SRK/key", "--type", "sign,noda", "--authValue", "")
		return func() {
			w.Run(t, "tss2_sign", "--keyPath", "HS/SRK/key", "--digest", "digest", "--signature", "signature", "--publicKey", "public", "--force")
		}
	}
}

// ptool uses the key of a store by sealing the store's secrets to it: a token that is added makes
// and loads keys under it. Its programs count on a resource manager to flush what they leave.
func ptool(t *testing.T, v *tpmtest.SoftTPM) func() {
	w := tpmtest.NewTools(t, v)
	if err := os.MkdirAll(w.Path("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	tools, err := filepath.Glob(filepath.Dir(tooltest.Tool(t, "tpm2_create")) + "/tpm2_*")
	if err != nil {
		t.Fatal(err)
	}
	for _, tool := range tools {
		text := fmt.Sprintf("#!/bin/sh\n%[1]s \"$@\"\nstatus=$?\n%[2]s -t >/dev/null 2>&1\n%[2]s -l >/dev/null 2>&1\nexit $status\n",
			tool, filepath.Join(filepath.Dir(tool), "tpm2_flushcontext"))
		if err := os.WriteFile(filepath.Join(w.Path("bin"), filepath.Base(tool)), []byte(text), 0o700); err != nil { // #nosec G306 -- it is run
			t.Fatal(err)
		}
	}
	program := tooltest.Tool(t, "tpm2_ptool")
	w.Env = []string{"PATH=" + w.Path("bin") + ":" + os.Getenv("PATH"), "TPM2_PKCS11_TCTI=" + w.TCTI(t)}
	w.Run(t, program, "init", "--path", w.Dir)
	tokens := 0
	return func() {
		tokens++
		label := fmt.Sprintf("token%d", tokens)
		w.Run(t, program, "addtoken", "--pid", "1", "--label", label, "--sopin", "so", "--userpin", "user", "--path", w.Dir)
		w.Run(t, program, "addkey", "--label", label, "--userpin", "user", "--algorithm", "ecc256", "--path", w.Dir)
		w.Run(t, program, "verify", "--label", "token1", "--userpin", "user", "--path", w.Dir)
	}
}

func clevis(t *testing.T, v *tpmtest.SoftTPM) func() {
	w := tpmtest.NewTools(t, v)
	w.Write(t, "plain", []byte("what clevis keeps"))
	w.Run(t, "sh", "-ec", "clevis encrypt tpm2 '{}' <plain >sealed")
	return func() {
		w.Run(t, "sh", "-ec", "clevis decrypt <sealed >opened && cmp plain opened")
	}
}

// systemd makes its storage root as systemd-tpm2-setup does (systemd 255, tpm2_get_legacy_template
// and tpm2_get_best_srk_template): that program is not in Debian 12, so tpm2-tools make the same
// key.
func systemd(t *testing.T, v *tpmtest.SoftTPM) func() {
	w := tpmtest.NewTools(t, v)
	w.CreateRoot(t)
	if !strings.Contains(w.Run(t, "tpm2_getcap", "handles-persistent"), "0x81000001") { // else systemd takes what is there
		w.Run(t, "tpm2_evictcontrol", "-Q", "-C", "o", "-c", "root.ctx", "0x81000001")
	}
	w.Write(t, "secret", []byte("what systemd seals"))
	w.Run(t, "tpm2_create", "-Q", "-C", "0x81000001", "-i", "secret", "-u", "sealed.pub", "-r", "sealed.priv")
	return func() {
		w.Run(t, "tpm2_load", "-Q", "-C", "0x81000001", "-u", "sealed.pub", "-r", "sealed.priv", "-c", "sealed.ctx")
		w.Run(t, "tpm2_unseal", "-c", "sealed.ctx")
	}
}

// channel is how go-attestation reaches a TPM that is no device.
type channel struct{ net.Conn }

func (channel) MeasurementLog() ([]byte, error) { return nil, nil }

// withAttestation opens the TPM for go-attestation, and leaves it free for others.
func withAttestation(t *testing.T, v *tpmtest.SoftTPM, f func(*attest.TPM) error) {
	t.Helper()
	conn, err := net.Dial("unix", strings.TrimPrefix(v.Device(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	on, err := attest.OpenTPM(&attest.OpenConfig{CommandChannel: channel{conn}})
	if err != nil {
		t.Fatal(err)
	}
	if err := f(on); err != nil {
		t.Error(err)
	}
	if err := on.Close(); err != nil {
		t.Error(err)
	}
}

func goAttestation(t *testing.T, v *tpmtest.SoftTPM) func() {
	var blob []byte
	withAttestation(t, v, func(on *attest.TPM) error {
		ak, err := on.NewAK(nil)
		if err != nil {
			return err
		}
		defer ak.Close(on)
		blob, err = ak.Marshal()
		return err
	})
	return func() {
		withAttestation(t, v, func(on *attest.TPM) error {
			ak, err := on.LoadAK(blob)
			if err != nil {
				return err
			}
			_, err = ak.Quote(on, []byte("nonce"), attest.HashSHA256)
			return errors.Join(err, ak.Close(on))
		})
	}
}

// softly sends commands of go-tpm, and leaves the TPM free for others.
func softly(t *testing.T, v *tpmtest.SoftTPM, f func(transport.TPM)) {
	t.Helper()
	c, err := linuxudstpm.Open(strings.TrimPrefix(v.Device(), "unix:"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	f(c)
}

// onSoft opens the TPM as one run of the agent does, and leaves it free for others.
func onSoft(t *testing.T, v *tpmtest.SoftTPM, root []byte, f func(*tpm.TPM)) {
	t.Helper()
	on, err := tpm.Open(t.Context(), tpm.Config{Device: v.Device(), StorageRoot: root})
	if err != nil {
		t.Fatal(err)
	}
	defer on.Close()
	f(on)
}

func eachTenant(t *testing.T, list []tenant, run func(t *testing.T, tenant tenant)) {
	t.Helper()
	tpm2Tools(t)
	for _, tenant := range list {
		t.Run(tenant.name, func(t *testing.T) {
			for _, tool := range tenant.tools {
				tooltest.Tool(t, tool)
			}
			run(t, tenant)
		})
	}
}

func TestTenantsBeforeUs(t *testing.T) {
	t.Parallel()
	eachTenant(t, tenants(), func(t *testing.T, tenant tenant) {
		v := tpmtest.Swtpm(t)
		use := tenant.settle(t, v)
		use()
		var file *tpm.KeyFile
		onSoft(t, v, nil, func(on *tpm.TPM) {
			file = create(t, on, tpm.KeyOptions{})
			checkLoads(t, on, file)
		})
		use()
		v.Reboot(t)
		use()
		onSoft(t, v, file.ParentName, func(on *tpm.TPM) { checkLoads(t, on, file) })
	})
}

func TestTenantsAfterUs(t *testing.T) {
	t.Parallel()
	for name, template := range map[string]*tpm2.TPMTPublic{"derived root": nil, "root at the handle": &tpm2.RSASRKTemplate} {
		t.Run(name, func(t *testing.T) {
			list := tenants()
			if template != nil { // for the others, TestTenantsInOurPlace is what their users do
				list = slices.DeleteFunc(list, func(tenant tenant) bool { return tenant.alone })
			}
			eachTenant(t, list, func(t *testing.T, tenant tenant) {
				v := tpmtest.Swtpm(t)
				if template != nil {
					softly(t, v, func(c transport.TPM) { putPrimary(t, c, tpm2.TPMRHOwner, *template, tpm.HandleSRK, "") })
				}
				var file *tpm.KeyFile
				onSoft(t, v, nil, func(on *tpm.TPM) { file = create(t, on, tpm.KeyOptions{}) })
				use := tenant.settle(t, v)
				use()
				onSoft(t, v, file.ParentName, func(on *tpm.TPM) {
					checkLoads(t, on, file)
					checkLoads(t, on, create(t, on, tpm.KeyOptions{}))
				})
				use()
			})
		})
	}
}

// The root of an Azure VM is at the handle, and a tenant gets the place.
func TestTenantsInOurPlace(t *testing.T) {
	t.Parallel()
	eachTenant(t, tenants(), func(t *testing.T, tenant tenant) {
		v := tpmtest.Swtpm(t)
		softly(t, v, func(c transport.TPM) { putPrimary(t, c, tpm2.TPMRHOwner, tpm2.RSASRKTemplate, tpm.HandleSRK, "") })
		var file *tpm.KeyFile
		onSoft(t, v, nil, func(on *tpm.TPM) { file = create(t, on, tpm.KeyOptions{}) })
		softly(t, v, func(c transport.TPM) { free(t, c, tpm.HandleSRK) })
		use := tenant.settle(t, v)
		use()
		var restore string
		onSoft(t, v, file.ParentName, func(on *tpm.TPM) {
			_, err := on.LoadKey(t.Context(), file, tpm.LoadOptions{})
			restore = restoring(t, on, err)
		})
		w := tpmtest.NewTools(t, v)
		w.Run(t, "sh", "-ec", restore)
		onSoft(t, v, file.ParentName, func(on *tpm.TPM) {
			checkLoads(t, on, file)
			if root, err := on.StorageRoot(t.Context()); err != nil || root.Restore != "" {
				t.Errorf("%+v, %v", root, err)
			}
		})
		use()
	})
}

// restoring returns the line that brings the storage root back, which is given whether the key
// works without it or not.
func restoring(t *testing.T, on *tpm.TPM, err error) string {
	t.Helper()
	if err == nil {
		root, err := on.StorageRoot(t.Context())
		if err != nil || root.Restore == "" {
			t.Fatalf("%+v, %v", root, err)
		}
		return root.Restore
	}
	parent, ok := errors.AsType[*tpm.ParentError](err)
	if !ok || parent.Lost() || !parent.Found || len(parent.Commands) != 1 {
		t.Fatalf("got %v", err)
	}
	return parent.Commands[0]
}

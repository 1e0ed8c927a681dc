package statedir_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/keyagent/keyagent/internal/agenttest"
	"github.com/keyagent/keyagent/internal/doctor"
	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/tpm"
)

const ownersPassword = "the owner's own"

// onTPM sends commands of another program to the stage's TPM.
func onTPM(s *agenttest.Stage, f func(transport.TPM) error) {
	s.T.Helper()
	on, err := tpm.Open(s.T.Context(), tpm.Config{Device: s.Config.TPM})
	if err != nil {
		s.T.Fatal(err)
	}
	defer on.Close()
	if err := on.Do(s.T.Context(), f); err != nil {
		s.T.Fatal(err)
	}
}

func evictRoot(c transport.TPM) error { return evict(c, tpm.HandleSRK) }

func evict(c transport.TPM, at tpm2.TPMHandle) error {
	rsp, err := tpm2.ReadPublic{ObjectHandle: at}.Execute(c)
	if err != nil {
		return err
	}
	_, err = tpm2.EvictControl{
		Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: at, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	return err
}

func setOwnerPassword(c transport.TPM) error {
	_, err := tpm2.HierarchyChangeAuth{
		AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}, NewAuth: tpm2.TPM2BAuth{Buffer: []byte(ownersPassword)},
	}.Execute(c)
	return err
}

// advisesToDelete returns the finding that says that a key is lost, or is to be deleted; nil if
// none does.
func advisesToDelete(d doctor.Diagnosis) *doctor.Finding {
	for _, f := range d.Findings {
		if text := f.Detail + f.Action; strings.Contains(text, "[delete key") || strings.Contains(text, "delete the keys") || strings.Contains(text, "are lost") {
			return &f
		}
	}
	return nil
}

// The RSA root of an Azure VM is freed: the agent makes it anew, and no advice is to delete what is
// intact.
func TestTheAgentGoesOnWithoutItsRootsHandle(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	onTPM(s, evictRoot)
	if err := s.TryOpen(); err != nil {
		t.Error(err)
	}
	d := s.Diagnose(nil)
	if f := advisesToDelete(d); f != nil || !d.OK || agenttest.Verdict(d, "storage root") != doctor.VerdictWarn || agenttest.Verdict(d, "key binding") != doctor.VerdictOK {
		t.Errorf("%+v", d)
	}
}

func TestTheOwnersPasswordComesFromACredential(t *testing.T) {
	credentials := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	s := agenttest.New(t)
	s.WithoutApplications()
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	onTPM(s, func(c transport.TPM) error { return errors.Join(evictRoot(c), setOwnerPassword(c)) })
	for _, tt := range []struct {
		name, setting, value, says string
		verdict                    string // on the password
	}{
		{"none is configured", "", "", "owner hierarchy, which has a password", doctor.VerdictWarn},
		{"it is not there", "owner", "", "tpm_owner_credential: ", doctor.VerdictWarn},
		{"it is wrong", "owner", "another", "another one than was given", doctor.VerdictOK},
		{"it is right", "owner", ownersPassword, "", doctor.VerdictOK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s.Config.TPMOwnerCredential = tt.setting
			if tt.value != "" {
				if err := os.WriteFile(filepath.Join(credentials, "owner"), []byte(tt.value+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			err, d := s.TryOpen(), s.Diagnose(nil)
			if f := advisesToDelete(d); f != nil {
				t.Errorf("%+v", f)
			}
			if got := agenttest.Verdict(d, "tpm: owner password"); got != tt.verdict {
				t.Errorf("the password: %s, want %s", got, tt.verdict)
			}
			if tt.says == "" {
				if err != nil || !d.OK {
					t.Errorf("%v, %+v", err, d)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), tt.says) || strings.Contains(err.Error(), "are lost") || d.OK {
				t.Errorf("%v, %+v", err, d)
			}
			if todo := agenttest.Advice(err); !strings.Contains(todo, "nothing is to be deleted") || !strings.Contains(todo, "\n(d=$(mktemp -d) && ") {
				t.Errorf("no advice that can be pasted: %v", err)
			}
		})
	}
}

// Until there is a key, no root is noted: there is nothing that another one could harm, and the
// first that is seen may not be usable.
func TestTheRootIsNotedWithTheFirstKey(t *testing.T) {
	s := agenttest.New(t)
	if err := os.Mkdir(s.Config.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := s.Keyring(nil)
	if _, err := k.Show(t.Context(), "", keyring.AuthSource{}); err != nil {
		t.Fatal(err)
	}
	s.Diagnose(nil)
	if _, err := os.Stat(s.StateFile("storage-root")); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("noted before there was a key: %v", err)
	}
	if _, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"}); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(s.StateFile("storage-root"))
	if err != nil {
		t.Fatal(err)
	}
	// What was lost is noted again, since there are keys.
	if err := os.Remove(s.StateFile("storage-root")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keyring(nil).Show(t.Context(), "", keyring.AuthSource{}); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(s.StateFile("storage-root")); err != nil || !bytes.Equal(again, first) {
		t.Errorf("%q became %q, %v", first, again, err)
	}
}

// A key is made, and another process has noted another root meanwhile: the key is not kept.
func TestAKeyIsNotKeptUnderAnotherRootThanWasNotedMeanwhile(t *testing.T) {
	s := agenttest.New(t)
	if err := os.Mkdir(s.Config.StateDir, 0o700); err != nil {
		t.Fatal(err)
	}
	k := s.Keyring(nil)
	if _, err := k.Show(t.Context(), "", keyring.AuthSource{}); err != nil { // it opens the TPM, without a note
		t.Fatal(err)
	}
	if err := os.WriteFile(s.StateFile("storage-root"), []byte("000b"+strings.Repeat("5a", 32)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := k.Create(t.Context(), "app", keyring.KeyRequest{Algorithm: "ecdsa-p256"})
	if !errors.Is(err, tpm.ErrStorageRoot) {
		t.Errorf("got %v", err)
	}
	if _, err := os.Stat(s.StateFile("keys", "app", "1.key.pem")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the key was kept: %v", err)
	}
}

// A root with a password of its own is not what keys are made under, and not noted; where it was
// noted, doctor does not say that it is fine.
func TestARootWithAPasswordIsNotNoted(t *testing.T) {
	s := agenttest.New(t)
	s.WithoutApplications()
	var name []byte
	onTPM(s, func(c transport.TPM) error {
		if err := evictRoot(c); err != nil {
			return err
		}
		rsp, err := tpm2.CreatePrimary{
			PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(tpm2.ECCSRKTemplate),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte("its own")}}},
		}.Execute(c)
		if err != nil {
			return err
		}
		name = rsp.Name.Buffer
		_, err = tpm2.EvictControl{
			Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: tpm.HandleSRK,
		}.Execute(c)
		_, flushErr := tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(c)
		return errors.Join(err, flushErr)
	})
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	if d := s.Diagnose(nil); !d.OK {
		t.Errorf("%+v", d)
	}
	if err := os.RemoveAll(s.Config.StateDir); err != nil {
		t.Fatal(err)
	}
	note := []byte(hex.EncodeToString(name))
	if err := errors.Join(os.Mkdir(s.Config.StateDir, 0o700), os.WriteFile(s.StateFile("storage-root"), note, 0o600)); err != nil {
		t.Fatal(err)
	}
	onTPM(s, setOwnerPassword) // else the same key is made anew, without a password
	d := s.Diagnose(nil)
	if d.OK || agenttest.Verdict(d, "storage root") != doctor.VerdictFail || advisesToDelete(d) != nil {
		t.Errorf("%+v", d)
	}
	if err := s.TryOpen(); err == nil || !strings.Contains(err.Error(), "has a password of its own") {
		t.Errorf("got %v", err)
	}
}

// A key was adopted under a storage key as docs/keys.md has it, which is then removed from its
// handle. The key is intact, and no command says that it is to be deleted.
func TestAnAdoptedKeyWhoseParentWasRemovedIsNotToBeDeleted(t *testing.T) {
	const at tpm2.TPMHandle = 0x81000100
	template := tpm2.ECCSRKTemplate
	template.ObjectAttributes.NoDA = false
	template.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
		Symmetric: tpm2.TPMTSymDefObject{
			Algorithm: tpm2.TPMAlgAES, KeyBits: tpm2.NewTPMUSymKeyBits(tpm2.TPMAlgAES, tpm2.TPMKeyBits(128)), Mode: tpm2.NewTPMUSymMode(tpm2.TPMAlgAES, tpm2.TPMAlgCFB),
		},
		CurveID: tpm2.TPMECCNistP384,
	})
	s := agenttest.New(t)
	s.WithoutApplications()
	if err := s.TryOpen(); err != nil {
		t.Fatal(err)
	}
	var file *tpm.KeyFile
	onTPM(s, func(c transport.TPM) (err error) {
		parent, err := persistPrimary(c, template, at)
		if err != nil {
			return err
		}
		rsp, err := tpm2.Create{
			ParentHandle: tpm2.AuthHandle{Handle: at, Name: parent, Auth: tpm2.PasswordAuth(nil)}, InPublic: tpm2.New2B(tpm.BindingKeyTemplate()),
		}.Execute(c)
		if err != nil {
			return err
		}
		file = &tpm.KeyFile{Parent: at, EmptyAuth: true, Public: tpm2.Marshal(rsp.OutPublic), Private: tpm2.Marshal(rsp.OutPrivate)}
		return nil
	})
	path := filepath.Join(t.TempDir(), "key.pem")
	if err := os.WriteFile(path, file.Encode(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Keyring(nil).Adopt(t.Context(), "adopted", keyring.ForeignFile{Path: path}, keyring.KeyRequest{}); err != nil {
		t.Fatal(err)
	}
	onTPM(s, func(c transport.TPM) error { return evict(c, at) })
	check := func(says, action string) {
		t.Helper()
		if text := says + action; strings.Contains(text, "[delete key adopted") || strings.Contains(text, "cannot come back") || strings.Contains(text, "move the file away") {
			t.Errorf("an intact key is given up: %s: %s", says, action)
		}
		if !strings.Contains(action, "nothing is to be deleted") || !strings.Contains(action, "make that storage key again") {
			t.Errorf("%s: no advice on the parent: %q", says, action)
		}
	}
	reports, err := s.Keyring(nil).Show(t.Context(), "adopted", keyring.AuthSource{})
	if err != nil || len(reports) != 1 {
		t.Fatalf("%+v, %v", reports, err)
	}
	check(reports[0].Problem, reports[0].Action)
	_, err = s.Keyring(nil).Request(t.Context(), "adopted", keyring.RequestOptions{NameRequest: agenttest.Subject("x")})
	if err == nil {
		t.Fatal("a request was signed")
	}
	check(err.Error(), agenttest.Advice(err))
	for _, f := range s.Diagnose(nil).Findings {
		if f.Check == "key adopted" {
			check(f.Detail, f.Action)
		}
	}
	_, err = s.Keyring(nil).Inspect(t.Context(), keyring.ForeignFile{Path: path}, keyring.AuthSource{})
	if todo := agenttest.Advice(err); !strings.Contains(todo, "keep the file") || !strings.Contains(todo, "parent="+statedir.ExampleParent+"]") {
		t.Errorf("of the file: %v", err)
	}
	onTPM(s, func(c transport.TPM) error { _, err := persistPrimary(c, template, at); return err })
	if d := s.Diagnose(nil); agenttest.Verdict(d, "key adopted") != doctor.VerdictOK {
		t.Errorf("%+v", d)
	}
}

// persistPrimary makes a primary of the owner persistent, and returns its Name.
func persistPrimary(c transport.TPM, template tpm2.TPMTPublic, at tpm2.TPMHandle) (tpm2.TPM2BName, error) {
	rsp, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHOwner, InPublic: tpm2.New2B(template)}.Execute(c)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	_, err = tpm2.EvictControl{
		Auth: tpm2.TPMRHOwner, ObjectHandle: tpm2.NamedHandle{Handle: rsp.ObjectHandle, Name: rsp.Name}, PersistentHandle: at,
	}.Execute(c)
	_, flushErr := tpm2.FlushContext{FlushHandle: rsp.ObjectHandle}.Execute(c)
	return rsp.Name, errors.Join(err, flushErr)
}

package inspect

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/keyagent/keyagent/attest/collect"
	"github.com/keyagent/keyagent/attest/hcl"
	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/setup"
	"github.com/keyagent/keyagent/internal/statedir"
	"github.com/keyagent/keyagent/tpm"
)

// lookAtTPM asks the TPM what it is, and looks whether the agent's user may use it; nil: there is
// no such user.
func lookAtTPM(ctx context.Context, device string, opts *Options, agent *accounts.Account) (setup.TPM, setup.Kind) {
	ctx, cancel := context.WithTimeout(ctx, Budget)
	defer cancel()
	found := setup.TPM{Device: device}
	t, err := tpm.Open(ctx, tpm.Config{Device: device, OwnerAuth: statedir.OwnerAuth(opts.Base)})
	if err != nil {
		found.Fault = err.Error()
		return found, setup.KindUnknown
	}
	defer t.Close()
	identity, err := t.Identity(ctx)
	if err != nil {
		found.Fault = err.Error()
		return found, setup.KindUnknown
	}
	found.Maker, found.Firmware = identity.Manufacturer, identity.FirmwareVersion
	if state, err := t.State(ctx); err == nil {
		found.OwnerPassword, found.Lockout = state.OwnerPassword, state.Lockout.Active
		found.NoSHA256 = !slices.ContainsFunc(state.Banks, func(b tpm.PCRBank) bool { return b.Name == config.BankSHA256 && len(b.PCRs) > 0 })
	}
	path, isDevice := devicePath(device)
	found.NoManager = isDevice && !strings.Contains(filepath.Base(path), "rm")
	if path != "" && agent != nil {
		found.Barred, found.Group = barred(path, *agent, opts.Accounts)
	}
	return found, kindOf(ctx, t)
}

// devicePath returns the file of a transport, "" if it has none, and whether it is the kernel's.
func devicePath(device string) (path string, isDevice bool) {
	scheme, rest, found := strings.Cut(device, ":")
	switch {
	case filepath.IsAbs(device):
		return device, true
	case !found || scheme == "tcp":
		return "", false
	}
	return rest, scheme == "device"
}

// barred says why a user may not read and write a file, and which group may; "" if they may.
func barred(path string, who accounts.Account, known accounts.Finder) (why, group string) {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Sprintf("%s: %v", path, errors.Unwrap(err)), ""
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || who.UID == 0 {
		return "", ""
	}
	const readWrite = 0o6
	mode := info.Mode().Perm()
	member := who.GID == stat.Gid || slices.Contains(who.Groups, stat.Gid)
	switch {
	case who.UID == stat.Uid:
		mode >>= 6
	case member:
		mode >>= 3
	}
	if mode&readWrite == readWrite {
		return "", ""
	}
	name := known.GroupNameOf(stat.Gid)
	why = fmt.Sprintf("user %s may not open %s, which belongs to user %s and group %s (mode %04o)", who.Name, path, accounts.NameOf(stat.Uid), name, info.Mode().Perm())
	if groupMay(info) && !member && stat.Gid != 0 {
		return why, name
	}
	return why, ""
}

// groupMay reports whether a file's group may read and write it.
func groupMay(info fs.FileInfo) bool { return info.Mode().Perm()>>3&0o6 == 0o6 }

// kindOf goes by the TPM's content, which proves nothing: only the verification of evidence does.
func kindOf(ctx context.Context, t *tpm.TPM) setup.Kind {
	content, err := t.ReadNV(ctx, collect.NVHCLReport)
	if errors.Is(err, tpm.ErrNoNVIndex) {
		return withoutReport(ctx, t)
	}
	if err != nil {
		return setup.KindUnknown
	}
	report, err := hcl.Parse(content)
	if err != nil {
		return setup.KindUnknown
	}
	switch report.Type {
	case hcl.TypeSNP:
		return setup.KindSNP
	case hcl.TypeTDX:
		return setup.KindTDX
	}
	return setup.KindTrusted
}

// withoutReport tells Azure's vTPM, which has an attestation key, from another TPM.
func withoutReport(ctx context.Context, t *tpm.TPM) setup.Kind {
	name, err := t.NameAt(ctx, collect.HandleAK)
	switch {
	case err != nil:
		return setup.KindUnknown
	case name != nil:
		return setup.KindTrusted
	}
	return setup.KindBare
}

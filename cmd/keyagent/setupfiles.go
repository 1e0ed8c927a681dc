package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/accounts"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/shell"
)

// checkFilesFor sees that the agent's user, whom root knows, can read the files of authorities that
// a configuration names: root, who sets it up, can read all. It looks at modes, not at lists of
// access control.
func checkFilesFor(user string, cfg *config.Config) error {
	account, err := accounts.Finder{}.Account(user)
	if errors.Is(err, accounts.ErrUnknown) || os.Geteuid() != 0 || err == nil && account.UID == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, file := range []struct{ setting, path string }{
		{"ca_file", cfg.CAFile}, {"attestation.vtpm_roots", cfg.Attestation.VTPMRoots}, {"attestation.ak_intermediates", cfg.Attestation.AKIntermediates},
	} {
		if file.path == "" {
			continue
		}
		closed, err := closedFor(account, file.path)
		if err != nil {
			return fmt.Errorf("%s: %w", file.setting, err)
		}
		if closed != "" {
			return advice.To(fmt.Errorf("%s: the agent runs as %s, who cannot read %s: %s is closed to them", file.setting, user, file.path, closed),
				"let everybody read it, as in: install -m 0644 %s /etc/keyagent/", shell.Word(file.path))
		}
	}
	return nil
}

// closedFor returns the file or directory on the way to it that a user may not read or search; ""
// if there is none.
func closedFor(account accounts.Account, path string) (string, error) {
	path, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", err
	}
	for wanted := fs.FileMode(4); ; wanted = 1 {
		info, err := os.Stat(path)
		if err != nil {
			return "", err
		}
		if info.IsDir() {
			wanted |= 1
		}
		if allowed(account, info)&wanted != wanted {
			return path, nil
		}
		if path == filepath.Dir(path) {
			return "", nil
		}
		path = filepath.Dir(path)
	}
}

// allowed returns what a user may do with a file, in the bits that a mode has for others.
func allowed(account accounts.Account, info fs.FileInfo) fs.FileMode {
	owner, ok := info.Sys().(*syscall.Stat_t)
	switch mode := info.Mode().Perm(); {
	case ok && owner.Uid == account.UID:
		return mode >> 6
	case ok && (owner.Gid == account.GID || slices.Contains(account.Groups, owner.Gid)):
		return mode >> 3
	default:
		return mode
	}
}

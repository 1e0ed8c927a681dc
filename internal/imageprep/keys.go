package imageprep

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/signer/keystore"
)

// listKeys lists the directory of keys: the files that the agent makes, a directory before its
// content, and the unknown ones. No link is followed.
func listKeys(cfg *config.Config) (known []string, unknown []Item, err error) {
	dir := filepath.Join(cfg.StateDir, keystore.Dir)
	err = filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		made := keystore.Makes(name, e.Type()) || keystore.Staged(name) && !e.IsDir() && whatIs(e) != ""
		if made {
			known = append(known, path)
			return nil
		}
		unknown = append(unknown, Item{path, notKnown})
		if e.IsDir() {
			return fs.SkipDir
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return known, unknown, err
}

// removeKeys removes the directory of keys, each file by its name, and directories when they are
// empty. It looks again: what came since the first look is not removed unseen.
func (inv *Inventory) removeKeys() error {
	known, unknown, err := listKeys(inv.cfg)
	if err != nil {
		return err
	}
	if len(unknown) > 0 {
		return (&Inventory{Unknown: unknown}).CheckUnknown()
	}
	for _, path := range slices.Backward(known) {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Beside lists things outside the state directory that may be this machine's own, and are not
// removed: credentials that systemd hands to the agent, below root (the file system's, but in
// tests), and audit records that were put aside.
func Beside(cfg *config.Config, root string) []Item {
	items := named(filepath.Join(root, "etc/credstore"), "a credential for the agent", isCredential)
	items = append(items, named(filepath.Join(root, "etc/credstore.encrypted"), "a credential for the agent, which this machine alone may decrypt", isCredential)...)
	if path := cfg.Audit.Path(); path != "" {
		items = append(items, named(filepath.Dir(path), "older audit records of this machine", func(name string) bool {
			return isRotated(name, filepath.Base(path))
		})...)
	}
	return items
}

func isCredential(name string) bool { return strings.HasPrefix(name, "keyagent.") }

// isRotated knows the names that logrotate gives: a number or a date behind the name, or before its
// extension.
func isRotated(name, live string) bool {
	stem := strings.TrimSuffix(live, filepath.Ext(live))
	for _, begin := range []string{live + ".", live + "-", stem + ".", stem + "-"} {
		if rest, ok := strings.CutPrefix(name, begin); ok && rest != "" && rest[0] >= '0' && rest[0] <= '9' {
			return true
		}
	}
	return false
}

// named lists the entries of a directory that have such a name. That it cannot be read is told in
// their place: they may be there.
func named(dir, what string, is func(name string) bool) []Item {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return []Item{{dir, "may have " + what + ": this user cannot look there"}}
	}
	var items []Item
	for _, e := range entries {
		if is(e.Name()) {
			items = append(items, Item{filepath.Join(dir, e.Name()), what})
		}
	}
	return items
}

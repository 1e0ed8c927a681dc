package main

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/keyagent/keyagent/internal/keyring"
	"github.com/keyagent/keyagent/internal/statedir"
)

// none is the value that, in a rotation, drops the old key's value.
const none = "none"

// keyFlags say what key to make. An empty one stands for the default, or in a rotation for the old
// key's value.
type keyFlags struct {
	algorithm  string
	pcrs       string // "0,2,7" or "none"
	pcrBank    string
	persistent string // "0x81010001" or "none"
	auth       keyring.AuthSource
	noAuth     bool // in a rotation: none, though the old key has one
}

// add adds the flags; otherwise names the kind of key without --algorithm.
func (k *keyFlags) add(cmd *cobra.Command, otherwise string) {
	flags := cmd.Flags()
	flags.StringVar(&k.algorithm, "algorithm", "", "kind of key: "+strings.Join(keyring.Algorithms(), ", ")+" (default: "+otherwise+")")
	flags.StringVar(&k.pcrs, "pcrs", "", "bind the key to the values that these PCRs have now, as in 0,2,7")
	flags.StringVar(&k.pcrBank, "pcr-bank", "", "bank of these PCRs: sha256 or sha384")
	flags.StringVar(&k.persistent, "persistent", "", "keep the key in the TPM, too, at this handle: 0x81010000 to 0x817fffff")
	addAuthFlags(cmd, &k.auth)
}

// request is what the flags ask for.
func (k *keyFlags) request() (keyring.KeyRequest, error) {
	r := keyring.KeyRequest{Algorithm: k.algorithm, PCRBank: k.pcrBank, Auth: k.auth, NoAuth: k.noAuth}
	if k.algorithm != "" && !slices.Contains(keyring.Algorithms(), k.algorithm) {
		return r, usagef("--algorithm %q is not one of %s", k.algorithm, strings.Join(keyring.Algorithms(), ", "))
	}
	if !slices.Contains([]string{"", "sha256", "sha384"}, k.pcrBank) {
		return r, usagef("--pcr-bank %q is neither sha256 nor sha384", k.pcrBank)
	}
	if k.pcrBank != "" && k.pcrs == none {
		return r, usagef("--pcr-bank is of no use without --pcrs")
	}
	var err error
	switch k.pcrs {
	case "":
	case none:
		r.NoPCRs = true
	default:
		if r.PCRs, err = parsePCRs(k.pcrs); err != nil {
			return r, err
		}
	}
	switch k.persistent {
	case "":
	case none:
		r.NotPersistent = true
	default:
		handle, err := strconv.ParseUint(k.persistent, 0, 32)
		if err != nil || handle == 0 { // zero stands for no wish in a request
			return r, usagef("--persistent %q is not a handle, as in 0x81010001", k.persistent)
		}
		r.Persistent = uint32(handle)
	}
	return r, checkAuth(k.auth, k.noAuth)
}

func parsePCRs(text string) ([]int, error) {
	var pcrs []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 0 || n > 23 {
			return nil, usagef("--pcrs %q: %q is not a PCR, 0 to 23; write 0,2,7", text, part)
		}
		pcrs = append(pcrs, n)
	}
	return pcrs, nil
}

// addAuthFlags are for commands that use a key.
func addAuthFlags(cmd *cobra.Command, auth *keyring.AuthSource) {
	cmd.Flags().StringVar(&auth.File, "auth-file", "", "file with the key's authorization value, 1 to 32 bytes (- is standard input)")
	cmd.Flags().StringVar(&auth.Credential, "auth-credential", "", "systemd credential with the key's authorization value")
}

// checkAuth refuses flags of an authorization value that contradict each other.
func checkAuth(auth keyring.AuthSource, noAuth bool) error {
	switch {
	case auth.File != "" && auth.Credential != "":
		return usagef("--auth-file and --auth-credential exclude each other")
	case noAuth && auth != keyring.AuthSource{}:
		return usagef("--no-auth excludes --auth-file and --auth-credential")
	}
	return nil
}

// foreignFlags are for commands that read a key file of another program.
type foreignFlags struct {
	path, parent string
	noAuth       bool
}

func (f *foreignFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.parent, "parent", "", "persistent handle of the parent of the file's key, in place of the one in the file")
	cmd.Flags().BoolVar(&f.noAuth, "no-auth", false, "the file's key has no authorization value, whatever the file says")
}

// file is the file that the flags name; named is the flag that names it.
func (f *foreignFlags) file(named string, auth keyring.AuthSource) (keyring.ForeignFile, error) {
	file := keyring.ForeignFile{Path: f.path, NoAuth: f.noAuth}
	if f.path == "" {
		if f.noAuth || f.parent != "" {
			return file, usageError{errors.New("--parent and --no-auth are about the key of " + named)}
		}
		return file, nil
	}
	if f.parent != "" {
		handle, err := strconv.ParseUint(f.parent, 0, 32)
		if err != nil || handle>>24 != 0x81 {
			return file, usagef("--parent %q is not a persistent handle, as in %s", f.parent, statedir.ExampleParent)
		}
		file.Parent = uint32(handle)
	}
	return file, checkAuth(auth, f.noAuth)
}

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

package keyring

import (
	"crypto"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/keyagent/keyagent/config"
	"github.com/keyagent/keyagent/internal/advice"
	"github.com/keyagent/keyagent/internal/secret"
	"github.com/keyagent/keyagent/signer/keystore"
	"github.com/keyagent/keyagent/tpm"
)

// none is what takes away, in a rotation, what the old key has.
const none = "none"

// options lays what was asked for over a base.
func (r KeyRequest) options(base keystore.KeyOptions) (keystore.KeyOptions, error) {
	if r.Algorithm != "" {
		base.Algorithm = tpm.Algorithm(r.Algorithm)
		if !slices.Contains(tpm.Algorithms(), base.Algorithm) {
			return base, advice.Usagef("--algorithm %q is not one of %s", r.Algorithm, AlgorithmNames())
		}
	}
	if err := r.choosePCRs(&base.PCRs); err != nil {
		return base, err
	}
	if err := r.choosePlace(&base.Persistent); err != nil {
		return base, err
	}
	switch {
	case r.NoAuth && r.Auth.given():
		return base, advice.Usagef("--no-auth excludes --auth-file and --auth-credential")
	case r.NoAuth:
		base.AuthValue = secret.String{}
	case r.Auth.given():
		value, err := r.Auth.read()
		if err != nil {
			return base, err
		}
		base.AuthValue = value
	}
	return base, nil
}

func (r KeyRequest) choosePCRs(s *tpm.PCRSelection) error {
	switch {
	case r.PCRs == none:
		s.PCRs = nil
	case r.PCRs != "":
		pcrs, err := parsePCRs(r.PCRs)
		if err != nil {
			return err
		}
		s.PCRs = pcrs
	}
	switch r.PCRBank {
	case "":
	case config.BankSHA256:
		s.Bank = crypto.SHA256
	case config.BankSHA384:
		s.Bank = crypto.SHA384
	default:
		return advice.Usagef("--pcr-bank %q is neither %s nor %s", r.PCRBank, config.BankSHA256, config.BankSHA384)
	}
	if r.PCRBank != "" && len(s.PCRs) == 0 {
		return advice.Usagef("--pcr-bank is of no use without --pcrs")
	}
	return nil
}

func parsePCRs(text string) ([]int, error) {
	var pcrs []int
	for part := range strings.SplitSeq(text, ",") {
		n, err := strconv.Atoi(strings.TrimSpace(part))
		if err != nil || n < 0 || n > 23 {
			return nil, advice.Usagef("--pcrs %q: %q is not a PCR, 0 to 23; write 0,2,7", text, part)
		}
		pcrs = append(pcrs, n)
	}
	return pcrs, nil
}

func (r KeyRequest) choosePlace(h *tpm.Handle) error {
	switch r.Persistent {
	case "":
		return nil
	case none:
		*h = 0
		return nil
	}
	n, err := strconv.ParseUint(r.Persistent, 0, 32)
	if err != nil {
		return advice.Usagef("--persistent %q is not a handle, as in 0x81010001", r.Persistent)
	}
	*h = tpm.Handle(n)
	if err := tpm.CheckPersistentHandle(*h); err != nil {
		return advice.UsageError{Err: err}
	}
	return nil
}

// AlgorithmNames lists the kinds of keys for help texts, the default first.
func AlgorithmNames() string {
	var names []string
	for _, a := range tpm.Algorithms() {
		names = append(names, string(a))
	}
	return strings.Join(names, ", ")
}

func handleText(h tpm.Handle) string {
	if h == 0 {
		return ""
	}
	return fmt.Sprintf("0x%08x", uint32(h))
}

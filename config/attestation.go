package config

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/keyagent/keyagent/internal/owned"
)

// maxCommandWords bounds a command.
const maxCommandWords = 64

// check checks who makes attestation tokens, and what evidence is made of.
func (a *Attestation) check(f *findings) {
	providers := []string{ProviderAzureGuest, ProviderExec, ProviderNone}
	if !slices.Contains(providers, a.Provider) {
		f.add("attestation.provider: %q is not one of %s", a.Provider, strings.Join(providers, ", "))
	}
	switch {
	case a.Provider == ProviderExec && len(a.Command) == 0:
		f.add("attestation.command: missing: the program that provider: exec starts, with its arguments")
	case a.Provider != ProviderExec && len(a.Command) > 0:
		f.add("attestation.command: it is for provider: exec, and provider is %s", a.Provider)
	case len(a.Command) > 0:
		a.checkCommand(f)
	}
	for i, pcr := range a.PCRs {
		if pcr < 0 || pcr > 23 || slices.Contains(a.PCRs[:i], pcr) {
			f.add("attestation.pcrs: %d is not a PCR (0 to 23), or is there twice", pcr)
		}
	}
	if a.EventLog != "" {
		f.wantAbsolute("attestation.event_log", a.EventLog)
	}
}

func (a *Attestation) checkCommand(f *findings) {
	if path := a.Command[0]; !filepath.IsAbs(path) || filepath.Clean(path) != path {
		f.add("attestation.command: %q is not an absolute path without detours; no shell looks for it", path)
	}
	if len(a.Command) > maxCommandWords || slices.ContainsFunc(a.Command, func(s string) bool { return strings.ContainsRune(s, 0) }) {
		f.add("attestation.command: more than %d words, or a NUL in one", maxCommandWords)
	}
}

// CheckProgram reports why a program must not be started: it is not there, not a program, or
// another user than root or the agent's could replace it. A fault of the latter kinds is an
// [*Error].
func CheckProgram(path string) error {
	real, err := owned.Resolve(path)
	if err != nil {
		return untrusted(err)
	}
	info, err := os.Lstat(real)
	if err != nil {
		return fmt.Errorf("reading: %w", err)
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o111 == 0 {
		return &Error{File: path, Problems: []string{"not a program (chmod +x makes a file one)"}}
	}
	if err := owned.Check(real, info); err != nil {
		return untrusted(err)
	}
	return nil
}

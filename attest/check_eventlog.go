package attest

import (
	"errors"
	"fmt"
	"slices"

	"github.com/keyagent/keyagent/attest/eventlog"
)

// EventLogPolicy is what the log of the boot must show. The zero value asks for nothing, and takes
// evidence without a log; as soon as one member asks for something, a log is required. A list that
// is empty allows everything.
//
// Package eventlog says what a log can show, and what somebody with root rights on the machine can
// add to it after the boot.
type EventLogPolicy struct {
	// Require asks for a log that replays to the quoted registers.
	Require bool
	// SecureBoot asks for Secure Boot to be enforced, as firmware measured it into PCR 7.
	// Policy.RequireSecureBoot asks the same of the VM's configuration.
	SecureBoot bool

	// BootLoaders lists the images that firmware and boot loaders may have started: the
	// Authenticode hash of each that was measured into PCR 4 must be on it. The hash is that of the
	// quoted bank (Policy.PCRBank); a list with one of another size is not met.
	BootLoaders [][]byte
	// ForbiddenBootLoaders lists images of which none may have been started.
	ForbiddenBootLoaders [][]byte
	// CommandLines lists the kernel command lines that are allowed, to the letter, with the path of
	// the kernel if GRUB measured it. PCRs 8 and 12 must be quoted.
	CommandLines []string

	// PK, KEK, DB and DBX list SHA-256 digests of the content that the Secure Boot variables may
	// have.
	PK, KEK, DB, DBX [][]byte
}

// asks reports whether the policy asks for more than a log that replays.
func (p EventLogPolicy) asks() bool {
	lists := [][][]byte{p.BootLoaders, p.ForbiddenBootLoaders, p.PK, p.KEK, p.DB, p.DBX}
	return p.SecureBoot || len(p.CommandLines) > 0 ||
		slices.ContainsFunc(lists, func(list [][]byte) bool { return len(list) > 0 })
}

// required names the checks that the policy makes necessary.
func (p EventLogPolicy) required() []string {
	switch {
	case p.asks():
		return []string{CheckEventLogReplay, CheckEventLogPolicy}
	case p.Require:
		return []string{CheckEventLogReplay}
	}
	return nil
}

// eventLogReplay requires the log to explain the registers of firmware, 0 to 7, as far as they are
// quoted. The system goes on to extend the others after the boot, without this log.
func (v *verifier) eventLogReplay() error {
	if v.e.EventLog == nil {
		return absent("no event log")
	}
	if v.result.PCRs == nil {
		if _, err := eventlog.Parse(v.e.EventLog); err != nil {
			return err
		}
		return absent("no quoted PCR values to replay the event log to")
	}
	facts, err := eventlog.Read(v.e.EventLog, v.result.PCRs)
	if err != nil {
		return err
	}
	v.result.EventLog = facts
	if failed := firmware(facts.NotReplayed); len(failed) > 0 {
		return fmt.Errorf("the event log does not give the quoted values of PCRs %v", failed)
	}
	if len(firmware(facts.Replayed)) == 0 {
		return fmt.Errorf("of the PCRs that firmware extends, 0 to %d, none is quoted", lastFirmwarePCR)
	}
	return nil
}

const lastFirmwarePCR = 7

func firmware(pcrs []int) []int {
	return slices.DeleteFunc(slices.Clone(pcrs), func(pcr int) bool { return pcr > lastFirmwarePCR })
}

func (v *verifier) eventLogPolicy() error {
	p, f := v.policy.EventLog, v.result.EventLog
	if !p.asks() {
		return absent("not asked for")
	}
	if v.e.EventLog == nil {
		return absent("no event log")
	}
	if f == nil {
		return absent("no event log that could be replayed")
	}
	if p.SecureBoot && f.SecureBoot != eventlog.SecureBootEnabled {
		return fmt.Errorf("secure boot is %s in the event log%s", f.SecureBoot, because(f.SecureBootReason))
	}
	return errors.Join(p.checkVariables(f), p.checkBootLoaders(f), p.checkCommandLines(f))
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + reason
}

func (p EventLogPolicy) checkVariables(f *eventlog.Facts) error {
	for _, variable := range []struct {
		name    string
		has     []byte
		allowed [][]byte
	}{{"PK", f.PK, p.PK}, {"KEK", f.KEK, p.KEK}, {"db", f.DB, p.DB}, {"dbx", f.DBX, p.DBX}} {
		switch {
		case len(variable.allowed) == 0:
		case variable.has == nil:
			return fmt.Errorf("the event log does not state %s%s", variable.name, because(f.SecureBootReason))
		case !contains(variable.allowed, variable.has):
			return fmt.Errorf("%s with SHA-256 %x is not on the policy's list", variable.name, variable.has)
		}
	}
	return nil
}

func (p EventLogPolicy) checkBootLoaders(f *eventlog.Facts) error {
	if len(p.BootLoaders) == 0 && len(p.ForbiddenBootLoaders) == 0 {
		return nil
	}
	if f.BootLoadersReason != "" {
		return fmt.Errorf("boot loaders are not known: %s", f.BootLoadersReason)
	}
	if len(f.BootLoaders) == 0 {
		return errors.New("the event log has no boot loader")
	}
	size := len(f.BootLoaders[0])
	for _, listed := range slices.Concat(p.BootLoaders, p.ForbiddenBootLoaders) {
		if len(listed) != size { // it would forbid nothing
			return fmt.Errorf("the policy lists a boot loader by %d bytes, and the quoted bank has digests of %d", len(listed), size)
		}
	}
	for _, digest := range f.BootLoaders {
		if contains(p.ForbiddenBootLoaders, digest) {
			return fmt.Errorf("boot loader %x is forbidden", []byte(digest))
		}
		if len(p.BootLoaders) > 0 && !contains(p.BootLoaders, digest) {
			return fmt.Errorf("boot loader %x is not on the policy's list", []byte(digest))
		}
	}
	return nil
}

func (p EventLogPolicy) checkCommandLines(f *eventlog.Facts) error {
	if len(p.CommandLines) == 0 {
		return nil
	}
	if f.CommandLinesReason != "" {
		return fmt.Errorf("kernel command lines are not all known: %s", f.CommandLinesReason)
	}
	if len(f.CommandLines) == 0 {
		return errors.New("the event log has no kernel command line")
	}
	for _, line := range f.CommandLines {
		if !slices.Contains(p.CommandLines, line.Text) {
			return fmt.Errorf("kernel command line %.200q is not on the policy's list", line.Text)
		}
	}
	return nil
}

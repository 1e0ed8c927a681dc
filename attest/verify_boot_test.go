package attest_test

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/eventlog"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

func sha(b []byte) []byte {
	sum := sha256.Sum256(b)
	return sum[:]
}

// booted makes the machine start otherwise, with all registers of the boot quoted.
func booted(change func(*bootlog.Machine)) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) {
		m := at.Booted()
		change(&m)
		x.SetBoot(bootlog.Boot(m), at.AllPCRs)
	}
}

func asked(p attest.EventLogPolicy) func(*testing.T, *trial) {
	return func(_ *testing.T, x *trial) {
		x.SetBoot(bootlog.Boot(at.Booted()), at.AllPCRs)
		x.policy.EventLog = p
	}
}

// images are the digests of what the simulated machine starts.
func images() [][]byte {
	return [][]byte{sha(bootlog.Image("shim")), sha(bootlog.Image("grub")), sha(bootlog.Image("kernel"))}
}

// fullBootPolicy is a policy that asks for all that can be asked, and that the simulated machine
// fulfils.
func fullBootPolicy() attest.EventLogPolicy {
	return attest.EventLogPolicy{
		Require: true, SecureBoot: true,
		BootLoaders: images(), ForbiddenBootLoaders: [][]byte{sha([]byte("an old shim"))},
		CommandLines: []string{"quiet", at.Booted().CommandLine},
		PK:           [][]byte{sha(bootlog.SignatureList("platform"))},
		KEK:          [][]byte{sha(bootlog.SignatureList("exchange"))},
		DB:           [][]byte{sha(bootlog.SignatureList("vendor"))},
		DBX:          [][]byte{sha(nil), sha(bootlog.SignatureList("revoked"))},
	}
}

func bootForgeries() map[string][]forgery {
	strictly := func(forge func(*testing.T, *trial)) func(*testing.T, *trial) {
		return func(t *testing.T, x *trial) {
			forge(t, x)
			x.policy.EventLog = fullBootPolicy()
		}
	}
	log := func(change func([]byte) []byte) func(*testing.T, *trial) {
		return func(_ *testing.T, x *trial) { x.EventLog = change(bytes.Clone(x.EventLog)) }
	}
	return map[string][]forgery{
		attest.CheckEventLogReplay: {
			{name: "no log, but something else", forge: log(func([]byte) []byte { return []byte("boot.log") })},
			{name: "the log of another boot", forge: log(func([]byte) []byte {
				return bootlog.Boot(bootlog.Machine{CommandLine: "/vmlinuz"}).Bytes()
			})},
			{name: "a log without its last event of PCR 4", forge: func(_ *testing.T, x *trial) {
				l := bootlog.Boot(at.Booted())
				l.Events = slices.DeleteFunc(l.Events, func(e bootlog.Event) bool { return bytes.Equal(e.Measured, bootlog.Image("kernel")) && e.PCR == 4 })
				x.EventLog = l.Bytes()
			}},
			{name: "a log with an event that was not measured", forge: func(_ *testing.T, x *trial) {
				l := bootlog.Boot(at.Booted())
				l.Measure(7, bootlog.Action, []byte("DMA Protection Disabled"))
				x.EventLog = l.Bytes()
			}},
			{name: "a log that begins in another locality", forge: func(_ *testing.T, x *trial) {
				l := bootlog.Boot(at.Booted())
				l.Events = slices.Insert(l.Events, 0, bootlog.Event{Type: bootlog.NoAction, Data: []byte("StartupLocality\x00\x03")})
				x.EventLog = l.Bytes()
			}},
			{name: "a quote of none of firmware's registers", forge: func(_ *testing.T, x *trial) {
				x.SetBoot(bootlog.Boot(at.Booted()), at.AllPCRs)
				for i := range at.FirmwarePCRs {
					delete(x.PCRs, i)
				}
				x.policy.PCRs = nil
			}},
		},
		attest.CheckEventLogPolicy: {
			{name: "secure boot off", forge: func(t *testing.T, x *trial) {
				booted(func(m *bootlog.Machine) { m.SecureBoot = false })(t, x)
				x.policy.EventLog.SecureBoot = true
			}},
			{name: "another dbx", forge: strictly(booted(func(m *bootlog.Machine) { m.DBX = bootlog.SignatureList("none") }))},
			{name: "another command line", forge: strictly(booted(func(m *bootlog.Machine) { m.CommandLine += " init=/bin/sh" }))},
			{name: "another PK", forge: asked(attest.EventLogPolicy{PK: [][]byte{sha(nil), {}}})},
			{name: "another KEK", forge: asked(attest.EventLogPolicy{KEK: [][]byte{sha(nil)}})},
			{name: "another db", forge: asked(attest.EventLogPolicy{DB: [][]byte{sha(nil)}})},
			{name: "a loader beside those that are allowed", forge: asked(attest.EventLogPolicy{BootLoaders: images()[1:]})},
			{name: "a loader that is forbidden", forge: asked(attest.EventLogPolicy{ForbiddenBootLoaders: images()[2:]})},
			{name: "command lines in registers that are not quoted", forge: func(_ *testing.T, x *trial) {
				x.policy.EventLog.CommandLines = []string{at.Booted().CommandLine}
			}},
			{name: "a command line that calls itself a command", forge: strictly(func(t *testing.T, x *trial) {
				relabel(t, x, "kernel_cmdline: ", "grub_cmd: ")
			})},
			{name: "a command line whose text is hidden", forge: strictly(func(t *testing.T, x *trial) {
				relabel(t, x, "kernel_cmdline: "+evilLine, "something else")
			})},
			{name: "an image that calls itself an action", forge: strictly(func(_ *testing.T, x *trial) {
				l := bootlog.Boot(at.Booted())
				l.MeasureAs(4, bootlog.Action, []byte("evil.efi"), []byte("Calling EFI Application from Boot Option"))
				x.SetBoot(l, at.AllPCRs)
			})},
			{name: "secure boot off, shown as something else, and on, after the boot", forge: strictly(func(_ *testing.T, x *trial) {
				m := at.Booted()
				m.SecureBoot = false
				l := bootlog.Boot(m)
				hidden := slices.IndexFunc(l.Events, func(e bootlog.Event) bool { return e.PCR == 7 })
				l.Events[hidden].Type, l.Events[hidden].Data = bootlog.EventTag, []byte("nothing")
				for _, e := range bootlog.Boot(at.Booted()).Events {
					if e.PCR == 7 {
						l.Events = append(l.Events, e)
					}
				}
				x.SetBoot(l, at.AllPCRs)
			})},
		},
	}
}

const evilLine = "/boot/vmlinuz-6.1 init=/bin/sh"

// relabel boots with another command line, changes what the log shows of it where no digest covers
// it, and adds the good line after the boot.
func relabel(t *testing.T, x *trial, from, to string) {
	t.Helper()
	m := at.Booted()
	m.CommandLine = evilLine
	l := bootlog.Boot(m)
	changed := false
	for i, e := range l.Events {
		if e.PCR == 8 && bytes.HasPrefix(e.Data, []byte(from)) {
			l.Events[i].Data = append([]byte(to), e.Data[len(from):]...)
			changed = true
		}
	}
	if !changed {
		t.Fatalf("the log has no %q", from)
	}
	good := at.Booted().CommandLine
	l.MeasureAs(8, bootlog.IPL, []byte(good), []byte("kernel_cmdline: "+good+"\x00"))
	x.SetBoot(l, at.AllPCRs)
}

func TestTheBootIsShown(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	asked(fullBootPolicy())(t, x)
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	want := &eventlog.Facts{
		Events: 26, Replayed: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
		SecureBoot: eventlog.SecureBootEnabled,
		PK:         sha(bootlog.SignatureList("platform")), KEK: sha(bootlog.SignatureList("exchange")),
		DB: sha(bootlog.SignatureList("vendor")), DBX: sha(bootlog.SignatureList("revoked")),
		Authorities:  []eventlog.Authority{{Variable: "db", SHA256: sha(bootlog.SignatureList("vendor")[28:])}},
		BootLoaders:  []eventlog.HexBytes{images()[0], images()[1], images()[2]},
		CommandLines: []eventlog.CommandLine{{PCR: 8, Text: at.Booted().CommandLine}},
	}
	if diff := cmp.Diff(want, r.EventLog); diff != "" {
		t.Error(diff)
	}
	for _, check := range []string{attest.CheckEventLogReplay, attest.CheckEventLogPolicy} {
		if r.Status(check) != attest.Pass {
			t.Errorf("%s: %s", check, r.Status(check))
		}
	}
}

// A log is not asked for by default. A policy that reads it refuses evidence without one, and names
// what is missing.
func TestALogThatIsAskedForMustBeThere(t *testing.T) {
	t.Parallel()
	for name, p := range map[string]attest.EventLogPolicy{
		"any log": {Require: true}, "secure boot": {SecureBoot: true}, "a dbx": {DBX: [][]byte{{1}}}, "a command line": {CommandLines: []string{"x"}},
	} {
		x := newTrial(t)
		x.EventLog = nil
		if err := x.run(t).Err(); err != nil {
			t.Fatalf("not asked for: %v", err)
		}
		x.policy.EventLog = p
		r := x.run(t)
		if r.Verdict() != attest.Incomplete || r.EventLog != nil {
			t.Errorf("%s: verdict %q, facts %+v", name, r.Verdict(), r.EventLog)
		}
		var missing []string
		for _, c := range r.Checks {
			if c.Status == attest.NotApplicable && c.Reason == "no event log" {
				missing = append(missing, c.Name)
			}
		}
		if !slices.Contains(missing, attest.CheckEventLogReplay) {
			t.Errorf("%s: missing are %v", name, missing)
		}
	}
}

// What the running system measures is in no log of the boot.
func TestTheSystemMayGoOnMeasuring(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.SetBoot(bootlog.Boot(at.Booted()), at.AllPCRs)
	for _, pcr := range []int{8, 10, 11, 15} {
		x.PCRs[pcr] = sha([]byte{byte(pcr)})
	}
	r := x.run(t)
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(r.EventLog.NotReplayed, []int{8, 10, 11, 15}) || len(r.EventLog.CommandLines) != 0 || r.EventLog.CommandLinesReason == "" {
		t.Errorf("facts: %+v", r.EventLog)
	}
}

// A statement that is not quoted proves nothing about the boot, and no facts are read.
func TestALogAloneSaysNothing(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	x.ChangeEvidence = func(e *attest.Evidence) { e.Quote, e.QuoteSignature = nil, nil }
	r := x.run(t)
	if r.EventLog != nil || r.Status(attest.CheckEventLogReplay) != attest.NotApplicable {
		t.Errorf("%s, facts %+v", r.Status(attest.CheckEventLogReplay), r.EventLog)
	}
}

// Digests of other banks, types and much of the text are covered by nothing. Whoever changes a byte
// of a log makes it worthless, or has more loaders shown than there were, or less authorities;
// never another state, command line or loader in the place of the real one.
func TestAChangedLogShowsNothingElse(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	asked(fullBootPolicy())(t, x)
	good := factsOf(t, x.EventLog, x.PCRs)
	unnoticed := 0
	for i := range x.EventLog {
		x.EventLog[i] ^= 0x10
		f, err := eventlog.Read(x.EventLog, x.PCRs)
		x.EventLog[i] ^= 0x10
		if err != nil || len(f.NotReplayed) > 0 || f.SecureBoot == eventlog.SecureBootNotStated || f.CommandLinesReason != "" {
			continue
		}
		unnoticed++
		for _, loader := range good.BootLoaders {
			if !slices.ContainsFunc(f.BootLoaders, func(l eventlog.HexBytes) bool { return bytes.Equal(l, loader) }) {
				t.Errorf("byte %d hides a loader", i)
			}
		}
		if len(f.Authorities) == 0 {
			f.Authorities = good.Authorities
		}
		f.BootLoaders = good.BootLoaders
		if diff := cmp.Diff(good, f); diff != "" {
			t.Errorf("byte %d: %s", i, diff)
		}
	}
	if unnoticed == 0 || unnoticed == len(x.EventLog) {
		t.Errorf("%d of %d changes go unnoticed", unnoticed, len(x.EventLog))
	}
}

func factsOf(t *testing.T, log []byte, pcrs map[int][]byte) *eventlog.Facts {
	t.Helper()
	f, err := eventlog.Read(log, pcrs)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

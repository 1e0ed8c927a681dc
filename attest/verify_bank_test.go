package attest_test

import (
	"bytes"
	"crypto/sha512"
	"slices"
	"strings"
	"testing"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/simulator/bootlog"
)

// quotes384 has the machine quote its SHA-384 bank, and a verifier who wants that.
func quotes384(x *trial) {
	log := bootlog.Boot(at.Booted())
	x.SetBoot(log, at.AllPCRs)
	x.PCRs = log.Bank(bootlog.AlgSHA384)
	x.policy.PCRBank = attest.BankSHA384
	x.policy.EventLog = fullBootPolicy()
	x.policy.EventLog.BootLoaders, x.policy.EventLog.ForbiddenBootLoaders = images384(), nil
}

func sha384(b []byte) []byte {
	sum := sha512.Sum384(b)
	return sum[:]
}

func images384() [][]byte {
	return [][]byte{sha384(bootlog.Image("shim")), sha384(bootlog.Image("grub")), sha384(bootlog.Image("kernel"))}
}

func TestAQuoteOfTheBankThatThePolicyNames(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*trial)
		check  string // that fails; empty: verified
	}{
		"SHA-384, with its log": {func(*trial) {}, ""},
		"values of SHA-384": {func(x *trial) {
			x.policy.PCRValues = map[int][][]byte{7: {sha384(nil), x.PCRs[7]}}
		}, ""},
		"values of SHA-256": {func(x *trial) {
			x.policy.PCRValues = map[int][][]byte{7: {bootlog.Boot(at.Booted()).PCRs()[7]}}
		}, attest.CheckPolicyPCR},
		"the policy wants the other bank":    {func(x *trial) { x.policy.PCRBank = attest.BankSHA256 }, attest.CheckQuoteSelection},
		"the policy names none":              {func(x *trial) { x.policy.PCRBank = "" }, attest.CheckQuoteSelection},
		"the policy names one of its own":    {func(x *trial) { x.policy.PCRBank = "sha1" }, attest.CheckQuoteSelection},
		"SHA-256 where SHA-384 is wanted":    {func(x *trial) { x.PCRs = bootlog.Boot(at.Booted()).PCRs() }, attest.CheckQuoteSelection},
		"another value":                      {func(x *trial) { x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = changed(e.PCRs) } }, attest.CheckQuoteDigest},
		"a log of another boot":              {func(x *trial) { x.EventLog = bootlog.Boot(bootlog.Machine{SecureBoot: true}).Bytes() }, attest.CheckEventLogReplay},
		"an image that is not listed":        {func(x *trial) { x.policy.EventLog.BootLoaders = images384()[:2] }, attest.CheckEventLogPolicy},
		"an image that is forbidden":         {func(x *trial) { x.policy.EventLog.ForbiddenBootLoaders = images384()[:1] }, attest.CheckEventLogPolicy},
		"images forbidden by SHA-256":        {func(x *trial) { x.policy.EventLog.ForbiddenBootLoaders = images()[:1] }, attest.CheckEventLogPolicy},
		"secure boot, and it is off":         {func(x *trial) { bootsInsecurely(x) }, attest.CheckEventLogPolicy},
		"values of both banks in one bundle": {func(x *trial) { x.ChangeEvidence = func(e *attest.Evidence) { e.PCRs = mixed(e.PCRs) } }, attest.CheckBundleFormat},
	} {
		x := newTrial(t)
		quotes384(x)
		tt.change(x)
		r := x.run(t)
		if tt.check == "" {
			if err := r.Err(); err != nil || r.PCRBank != attest.BankSHA384 || !bytes.Equal(r.PCRs[7], x.PCRs[7]) {
				t.Errorf("%s: %v; bank %q", name, err, r.PCRBank)
			}
			continue
		}
		if r.Verified() || r.Status(tt.check) != attest.Fail {
			t.Errorf("%s: %v", name, r.Err())
		}
	}
}

func changed(values map[int][]byte) map[int][]byte {
	out := mixed(values)
	out[7] = sha384(values[7])
	return out
}

// mixed is a copy, with one value of the SHA-256 bank.
func mixed(values map[int][]byte) map[int][]byte {
	out := map[int][]byte{}
	for i, v := range values {
		out[i] = v
	}
	out[7] = sha(values[7])
	return out
}

func bootsInsecurely(x *trial) {
	m := at.Booted()
	m.SecureBoot = false
	log := bootlog.Boot(m)
	x.EventLog, x.PCRs = log.Bytes(), log.Bank(bootlog.AlgSHA384)
}

// A bundle has values of one bank, and reads as it was written.
func TestABundleWithValuesOfSHA384(t *testing.T) {
	t.Parallel()
	x := newTrial(t)
	quotes384(x)
	e := x.Evidence(t, x.challenge)
	bundle, err := e.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := attest.Parse(bundle)
	if err != nil || len(again.PCRs) != at.AllPCRs || !bytes.Equal(again.PCRs[7], x.PCRs[7]) {
		t.Errorf("%v, %d values", err, len(again.PCRs))
	}
	e.PCRs = mixed(e.PCRs)
	if _, err := e.Encode(); err == nil || !strings.Contains(err.Error(), "two banks") {
		t.Errorf("values of both banks: %v", err)
	}
	for _, size := range []int{20, 31, 33, 47, 49, 64} {
		e.PCRs = map[int][]byte{7: make([]byte, size)}
		if _, err := e.Encode(); err == nil {
			t.Errorf("values of %d bytes are encoded", size)
		}
	}
	if got := attest.PCRBanks(); !slices.Equal(got, []attest.PCRBank{"sha256", "sha384"}) {
		t.Errorf("banks %q", got)
	}
}

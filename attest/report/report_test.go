package report_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/keyagent/keyagent/attest"
	at "github.com/keyagent/keyagent/attest/internal/attesttest"
	"github.com/keyagent/keyagent/attest/report"
	"github.com/keyagent/keyagent/attest/tee"
)

var (
	machineOnce sync.Once
	theMachine  *at.Machine
)

// machine is slow to make; tests only read it.
func machine(t testing.TB) *at.Machine {
	t.Helper()
	machineOnce.Do(func() { theMachine = at.NewMachine(t, at.NewAMD(t), at.NewCA(t), at.NewKeys(t)) })
	return theMachine
}

func challenge() attest.Challenge {
	return attest.Challenge{Nonce: bytes.Repeat([]byte{7}, 32), Audience: "https://verifier.example"}
}

// bundle is the evidence of a machine like the shared one; change alters it.
func bundle(t testing.TB, change func(*at.Machine)) ([]byte, report.Question) {
	t.Helper()
	m := *machine(t)
	if change != nil {
		change(&m)
	}
	ch := challenge()
	data, err := m.Evidence(t, ch).Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data, report.Question{File: "vm-1.json", Challenge: &ch, Rules: attest.DefaultPolicy(), Anchors: m.Anchors(), At: at.Epoch()}
}

func text(t *testing.T, r *report.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := (report.Text{}).Write(&b, r); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAReportOfGoodEvidence(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	r := report.Verify(data, q)
	if !r.Verified || r.Verdict != attest.Verified || len(r.Hindrances()) != 0 || r.Kind != attest.KindSNP {
		t.Errorf("%+v", r)
	}
	if f := r.Facts; f == nil || f.VMID != at.VMID || len(f.PCRs) != 8 || f.Key == nil || len(f.Key.SPKISHA256) != 64 {
		t.Errorf("facts: %+v", f)
	}
	var anchors []string
	for _, c := range r.Chains {
		anchors = append(anchors, c.Check+" "+c.Anchor().Subject)
	}
	if got := strings.Join(anchors, "; "); !strings.Contains(got, "snp.chain SERIALNUMBER") || !strings.Contains(got, "ak.certificate CN=Test Virtual TPM Root") {
		t.Errorf("anchors: %s", got)
	}
	shown := text(t, r)
	for _, want := range []string{"vm-1.json: VERIFIED at 2026-06-01T12:00:00Z", "nonce 0707", "trust anchor ARK-Milan", "the default policy", "whose VM it is"} {
		if !strings.Contains(shown, want) {
			t.Errorf("no %q in\n%s", want, shown)
		}
	}
}

// A program must be able to rely on the members: this list is what docs/attestation.md describes.
func TestTheJSONFormHasTheseMembers(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	out, err := json.Marshal(report.Verify(data, q))
	if err != nil {
		t.Fatal(err)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(out, &members); err != nil {
		t.Fatal(err)
	}
	var names []string
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	want := []string{"chains", "challenge", "checks", "evidence", "facts", "format", "kind", "not_proven", "policy", "proven", "time", "verdict", "verified"}
	if !slices.Equal(names, want) {
		t.Errorf("members %q, want %q", names, want)
	}
	if !bytes.Contains(out, []byte(`{"check":"bundle.format","status":"pass","required":true}`)) {
		t.Errorf("checks: %s", members["checks"])
	}
}

func TestEvidenceThatDoesNotHoldHasNoFacts(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		change func(*at.Machine)
		ask    func(*report.Question)
		check  string
	}{
		"another nonce":             {nil, func(q *report.Question) { q.Challenge.Nonce = bytes.Repeat([]byte{8}, 32) }, attest.CheckQuoteNonce},
		"another audience":          {nil, func(q *report.Question) { q.Challenge.Audience = "https://other.example" }, attest.CheckQuoteNonce},
		"no nonce":                  {nil, func(q *report.Question) { q.Challenge = nil }, attest.CheckQuoteNonce},
		"an empty nonce":            {nil, func(q *report.Question) { q.Challenge = &attest.Challenge{} }, attest.CheckQuoteNonce},
		"no time":                   {nil, func(q *report.Question) { q.At = q.At.AddDate(-q.At.Year()+1, -int(q.At.Month())+1, -q.At.Day()+1) }, attest.CheckSNPChain},
		"another processor's root":  {nil, func(q *report.Question) { q.Anchors = attest.DefaultTrustAnchors() }, attest.CheckSNPChain},
		"a missing part":            {func(m *at.Machine) { m.ChangeEvidence = func(e *attest.Evidence) { e.Quote = nil } }, nil, attest.CheckQuoteStructure},
		"a check that there is not": {nil, func(q *report.Question) { q.Rules.Required = append(q.Rules.Required, "snp.lunch") }, "snp.lunch"},
	} {
		data, q := bundle(t, tt.change)
		if tt.ask != nil {
			tt.ask(&q)
		}
		r := report.Verify(data, q)
		if r.Verified || r.Facts != nil {
			t.Errorf("%s: verified %v, facts %v", name, r.Verified, r.Facts)
		}
		if !slices.ContainsFunc(r.Hindrances(), func(c report.Check) bool { return c.Name == tt.check }) {
			t.Errorf("%s: %s does not stand against it: %+v", name, tt.check, r.Hindrances())
		}
		if shown := text(t, r); !strings.Contains(shown, "NOT VERIFIED") || strings.Contains(shown, at.VMID) || strings.Contains(shown, ": VERIFIED") {
			t.Errorf("%s:\n%s", name, shown)
		}
	}
}

func TestABundleThatCannotBeReadIsReported(t *testing.T) {
	t.Parallel()
	_, q := bundle(t, nil)
	for _, data := range []string{"", "{}", "null", `{"format":"keyagent-evidence/2"}`, `{"format":"keyagent-evidence/1","x":1}`, strings.Repeat("a", 5<<20)} {
		r := report.Verify([]byte(data), q)
		if r.Verified || r.Verdict != attest.Rejected || len(r.Checks) != 1 || r.Checks[0].Name != attest.CheckBundleFormat || r.Checks[0].Reason == "" {
			t.Errorf("%.40q: %+v", data, r)
		}
		if shown := text(t, r); !strings.Contains(shown, "bundle.format") {
			t.Errorf("%.40q:\n%s", data, shown)
		}
	}
}

// Every check of the procedure is told about, once, in the tree.
func TestEveryCheckIsInTheTreeAndExplained(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	r := report.Verify(data, q)
	r.Kind = "" // of a known platform, the checks of others are left out
	shown := text(t, r)
	explained := report.Explain(q.Rules, q.Policy)
	for i, name := range attest.CheckNames() {
		if n := strings.Count(shown, " "+name+" "); n != 1 {
			t.Errorf("%s is shown %d times", name, n)
		}
		if e := explained.Checks[i]; e.Check != name || e.Proves == "" || e.Fails == "" {
			t.Errorf("%s is not explained: %+v", name, e)
		}
	}
}

func TestTheExplanationSaysWhatIsRequired(t *testing.T) {
	t.Parallel()
	rules := attest.DefaultPolicy()
	rules.MinTCB, rules.VMID = 0xdb18000000000004, "the-vm"
	rules.PCRValues = map[int][][]byte{7: {{0xab}, {0xcd}}}
	rules.AcceptedStatuses, rules.CollateralNotRequired = []tee.TCBStatus{tee.OutOfDate}, true
	rules.TDXPolicy.RequiredAttributes = 1 << 28
	rules.MinTCBOf = map[string]tee.TCB{"Genoa": 0x54}
	var b bytes.Buffer
	if err := (report.Text{}).Explain(&b, report.Explain(rules, report.Policy{File: "p.yaml", SHA256: "00"})); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Policy: p.yaml", "snp.launch  required", "ak.certificate  checked if its part is there", "policy.vm-id  required", "the-vm",
		"PCR 7 is ab or cd", "at least that of db18000000000004", "with fixedTPM, fixedParent, sensitiveDataOrigin, sign", "0, 1, 2, 3, 4, 5, 6, 7",
		"AMD SEV-SNP, or Intel TDX", "UpToDate, OutOfDate", "tdx.collateral  checked if its part is there", "revoked platforms then pass", "attributes 0x10000000 set", "on Genoa at least 0000000000000054",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

// What came with the evidence cannot write to the terminal, nor pretend to be another line.
func TestHostileTextsAreHarmlessOnATerminal(t *testing.T) {
	t.Parallel()
	const hostile = "\x1b[2J\r\nok      everything\u202e\u0085x"
	data, q := bundle(t, func(m *at.Machine) {
		m.ChangeEvidence = func(e *attest.Evidence) { e.Audience = hostile }
	})
	q.File = hostile
	q.Policy.File = hostile
	shown := text(t, report.Verify(data, q))
	for _, r := range shown {
		if r != '\n' && !unicode.IsPrint(r) {
			t.Fatalf("%q in\n%q", r, shown)
		}
	}
	if strings.Contains(shown, "\nok ") {
		t.Errorf("a line of its own:\n%s", shown)
	}
}

func TestColoursAreForThoseWhoAsk(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, nil)
	r := report.Verify(data, q)
	if strings.Contains(text(t, r), "\x1b") {
		t.Error("an escape sequence without being asked")
	}
	var b bytes.Buffer
	if err := (report.Text{Colours: true}).Write(&b, r); err != nil || !strings.Contains(b.String(), "\x1b[32mok") {
		t.Errorf("%v\n%q", err, b.String())
	}
}

func TestAReportShowsWhatIsOfTheEvidencesKind(t *testing.T) {
	t.Parallel()
	data, q := bundle(t, func(m *at.Machine) { m.TDX = at.NewTDX(at.NewIntel(t)) })
	r := report.Verify(data, q)
	shown := text(t, r)
	if !r.Verified || r.Kind != attest.KindTDX || !strings.Contains(shown, "Intel TDX quote") || !strings.Contains(shown, "trust anchor Intel SGX Root CA") || strings.Contains(shown, "snp.") {
		t.Errorf("kind %q:\n%s", r.Kind, shown)
	}

	data, q = bundle(t, func(m *at.Machine) {
		m.ChangeEvidence = func(e *attest.Evidence) { e.HCLReport, e.VCEKChain = nil, nil }
	})
	q.Rules.TEE = []attest.Kind{attest.KindVTPM}
	r = report.Verify(data, q)
	shown = text(t, r)
	if r.Kind != attest.KindVTPM || !strings.Contains(shown, "hardware report (not there)") || !strings.Contains(shown, "a TEE keeps the host out of the machine's memory") {
		t.Errorf("kind %q:\n%s", r.Kind, shown)
	}
}

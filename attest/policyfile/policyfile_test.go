package policyfile_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/keyagent/keyagent/attest"
	"github.com/keyagent/keyagent/attest/policyfile"
)

const example = "testdata/example.yaml"

func noFiles(string) ([]byte, error) { return nil, fs.ErrNotExist }

func parse(t *testing.T, text string) (*policyfile.Policy, error) {
	t.Helper()
	return policyfile.Parse("policy.yaml", []byte(text), noFiles)
}

func TestAnEmptyFileIsTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "\n", "# nothing\n", "---\n", "{}", "version: 1"} {
		p, err := parse(t, text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if !reflect.DeepEqual(p.Rules, attest.DefaultPolicy()) {
			t.Errorf("%q: %+v", text, p.Rules)
		}
	}
	if !reflect.DeepEqual(policyfile.Default().Rules, attest.DefaultPolicy()) {
		t.Error("Default is another policy")
	}
}

// The example is what people copy: as it is it must ask what no file asks.
func TestTheExampleIsTheDefaultPolicy(t *testing.T) {
	t.Parallel()
	p, err := policyfile.Load(example)
	if err != nil {
		t.Fatal(err)
	}
	if want := attest.DefaultPolicy(); !reflect.DeepEqual(p.Rules, want) {
		t.Errorf("got\n%+v\nwant\n%+v", p.Rules, want)
	}
	if p.Origin.File != example || len(p.Origin.SHA256) != 64 {
		t.Errorf("%+v", p.Origin)
	}
}

// Each rule that the example shows in a comment is one that a file may have, with that value.
func TestTheCommentedRulesOfTheExampleAreRules(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(example)
	if err != nil {
		t.Fatal(err)
	}
	member := regexp.MustCompile(`(?m)^( *)# ( *)([a-z_0-9]+|-)(:| )(.*)$`)
	uncommented := member.ReplaceAllStringFunc(string(text), func(line string) string {
		m := member.FindStringSubmatch(line)
		if m[3] != "-" && m[4] != ":" {
			return line // a sentence
		}
		return m[1] + m[2] + m[3] + m[4] + m[5]
	})
	// There is no revocation list that AMD signed among our test data.
	uncommented = strings.Replace(uncommented, "  amd_revocation_lists: [milan.crl]\n", "", 1)
	p, err := policyfile.Parse(example, []byte(uncommented), exampleFiles(t))
	if err != nil {
		t.Fatalf("%v\n%s", err, uncommented)
	}
	r := p.Rules
	if len(r.TEE) != 2 || r.MaxAge != 10*time.Minute || r.VMID == "" || len(r.PCRValues[7]) != 2 || r.MinTCBOf["Milan"] != 0xdb18000000000004 || r.MinTCBOf["Turin"] != 0x4f00000004010101 || len(r.TCBExceptions) != 1 || len(r.AKNames) != 1 || len(r.EventLog.DBX) != 1 || len(r.EventLog.CommandLines) != 1 || r.MinABI != 1<<8|51 {
		t.Errorf("%+v", r)
	}
	if !strings.Contains(strings.Join(r.Required, " "), attest.CheckSNPRevocation) {
		t.Errorf("required: %v", r.Required)
	}
	if a := p.Anchors; len(a.AMD) != 2 || len(a.Intel) != 1 || len(a.VTPM) != 1 || len(a.VTPMIntermediates) != 1 || len(p.Origin.Named) != 5+9 || len(r.Collateral) != 1 {
		t.Errorf("%d, %d and %d anchors of %d files", len(a.AMD), len(a.VTPM), len(a.VTPMIntermediates), len(p.Origin.Named))
	}
}

// exampleFiles are the files that the example names. There is no revocation list that AMD signed
// among our test data; that it is read last, and held to the roots, is shown elsewhere.
func exampleFiles(t *testing.T) func(string) ([]byte, error) {
	const roots = "../../testdata/azure-cvm/roots/"
	return func(name string) ([]byte, error) {
		if file, found := strings.CutPrefix(name, "collateral/00806f050000/"); found {
			return os.ReadFile("../../testdata/azure-cvm/tdx-2026/collateral/" + file)
		}
		switch name {
		case "amd-ask-ark-milan.pem":
			return os.ReadFile(roots + name)
		case "amd-ask-ark-genoa.pem":
			return genoa(t), nil
		case "intel-sgx-root.pem":
			return certificate("CERTIFICATE", attest.DefaultTrustAnchors().Intel[0].Raw), nil
		case "azure-virtual-tpm-root.pem":
			return os.ReadFile("../roots/azure-virtual-tpm-root-2023.pem")
		case "azure-virtual-tpm-ca.pem":
			return os.ReadFile("../roots/global-virtual-tpm-ca-03.pem")
		}
		return nil, fs.ErrNotExist
	}
}

func TestRulesAreRead(t *testing.T) {
	t.Parallel()
	hash := strings.Repeat("ab", 48)
	for _, tt := range []struct {
		name, text string
		holds      func(attest.Policy) bool
	}{
		{"JSON", `{"tee":["tdx"],"secure_boot":true}`, func(p attest.Policy) bool {
			return len(p.TEE) == 1 && p.TEE[0] == attest.KindTDX && p.RequireSecureBoot
		}},
		{"JSON over several lines with tabs", "{\n\t\"secure_boot\": true,\n\t\"max_age\": \"5m\"\n}\n", func(p attest.Policy) bool { return p.RequireSecureBoot && p.MaxAge == 5*time.Minute }},
		{"one word as a list", "tee: sev-snp", func(p attest.Policy) bool { return len(p.TEE) == 1 }},
		{"a digest of digits", "pcrs: {values: {0: " + strings.Repeat("12", 32) + "}}", func(p attest.Policy) bool { return p.PCRValues[0][0][0] == 0x12 }},
		{"a digest that looks like a number with an exponent", "sev_snp: {min_tcb: 73080000000000e3}", func(p attest.Policy) bool { return p.MinTCB == 0x73080000000000e3 }},
		{"a level with its prefix", "sev_snp: {min_tcb: 0xdb18000000000004}", func(p attest.Policy) bool { return p.MinTCB == 0xdb18000000000004 }},
		{"a measurement replaces the built-in ID keys", "sev_snp: {launch: {measurements: [" + hash + "]}}", func(p attest.Policy) bool {
			return len(p.Launch.IDKeyDigests) == 0 && len(p.Launch.Measurements) == 1
		}},
		{"the built-in ID keys and one more", "sev_snp: {launch: {id_key_digests: [azure, " + hash + "]}}", func(p attest.Policy) bool {
			return len(p.Launch.IDKeyDigests) == 1+len(attest.AzureIDKeyDigests())
		}},
		{"what a key must not be", "key: {forbid: [noDA], require: [userWithAuth]}", func(p attest.Policy) bool {
			return p.Key.ForbiddenAttributes&(1<<10) != 0 && p.Key.RequiredAttributes&(1<<6) != 0 && p.Key.RequiredAttributes&(1<<1) != 0
		}},
		{"what a key may be", "key: {permit: [decrypt], auth_policies: any}", func(p attest.Policy) bool {
			return p.Key.ForbiddenAttributes&(1<<17) == 0 && p.Key.AnyAuthPolicy
		}},
		{"fewer PCRs", "pcrs: {quoted: [7, 4, 7]}", func(p attest.Policy) bool { return reflect.DeepEqual(p.PCRs, []int{4, 7}) }},
		{"the check against BadRAM", "sev_snp: {alias_check: true, forbid_smt: true}", func(p attest.Policy) bool { return p.PlatformInfo == 1<<5 && p.ForbidSMT }},
		{"TDX", "tdx: {collateral: false, accepted_statuses: [OutOfDate, SWHardeningNeeded, OutOfDate], mrtd: [azure, " + hash + "], accept_xfam: 0x100000}", func(p attest.Policy) bool {
			return p.CollateralNotRequired && len(p.AcceptedStatuses) == 2 && len(p.MRTDs) == 1+len(attest.AzureMRTDs()) && p.XFAM == 1<<20
		}},
		{"zeros where they are the usual value", "tdx: {mr_owner: " + strings.Repeat("00", 48) + "}", func(p attest.Policy) bool { return len(p.MROwners) == 1 }},
		{"TD attributes", "tdx: {require_attributes: 0x10000000, accept_attributes: 0x20000000}", func(p attest.Policy) bool {
			return p.TDXPolicy.RequiredAttributes == 1<<28 && p.TDAttributes == 1<<29
		}},
		{"another bank", "event_log: {boot_loaders: " + hash + ", db: " + strings.Repeat("cd", 32) + "}\npcrs: {values: {7: " + hash + "}, bank: sha384}", func(p attest.Policy) bool {
			return p.PCRBank == attest.BankSHA384 && len(p.PCRValues[7][0]) == 48 && len(p.EventLog.BootLoaders[0]) == 48
		}},
		{"a TPM that nobody vouches for", "tee: tpm\nak_names: 000b" + strings.Repeat("ab", 32), func(p attest.Policy) bool {
			return p.TEE[0] == attest.KindTPM && len(p.AKNames) == 1
		}},
		{"required by name", "require: ak.certificate", func(p attest.Policy) bool {
			return len(p.Required) == len(attest.DefaultPolicy().Required)+1
		}},
	} {
		p, err := parse(t, tt.text)
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		if !tt.holds(p.Rules) {
			t.Errorf("%s: %+v", tt.name, p.Rules)
		}
	}
}

// Each refusal says where, what and what to write instead.
func TestRefusals(t *testing.T) {
	t.Parallel()
	none := strings.Repeat("00", 48)
	for _, tt := range []struct {
		text string
		line int
		what string
		do   string
	}{
		{"secure_boot: true\nsecure_bot: true", 2, `unknown member "secure_bot" of the policy`, "did you mean secure_boot?"},
		{"min_tcb: 1", 1, `unknown member "min_tcb" of the policy`, "there are ak_names, anchors, "},
		{"debug: true", 1, `unknown member "debug" of the policy`, "there are "},
		{"sev_snp:\n  min_tbc: x", 2, `unknown member "min_tbc" of sev_snp`, "did you mean min_tcb?"},
		{"tee: tdx\ntee: sev-snp", 2, `"tee" occurs twice in the policy, first in line 1`, "take one of them out"},
		{`{"key":{"forbid":[],"forbid":[]}}`, 1, `"forbid" occurs twice in key`, "take one of them out"},
		{"pcrs: {values: {7: " + strings.Repeat("ab", 32) + ", 7: bb}}", 1, `"7" occurs twice in pcrs.values`, ""},
		{"tee: [snp]", 1, `unknown entry "snp" of tee`, "there are sev-snp, tdx"},
		{"tee: []", 1, "tee is an empty list", "leave the member out"},
		{"tee:", 1, "tee has no value", "leave the member out"},
		{"tee: {a: b}", 1, "tee is not a list", "write [A, B]"},
		{"secure_boot: yes", 1, `secure_boot is "yes"`, "write true or false"},
		{`secure_boot: "true"`, 1, `secure_boot is "true"`, "write true or false"},
		{"max_age: 10", 1, `max_age is "10"`, "such as 90s"},
		{"max_age: -5m", 1, `max_age is "-5m"`, "such as 90s"},
		{"version: 2", 1, `version "2" is not known`, "write 1"},
		{"require: [snp.lunch]", 1, `unknown entry "snp.lunch" of require`, "did you mean snp.launch?"},
		{"pcrs: {bank: sha1}", 1, `unknown entry "sha1" of pcrs.bank`, "sha256"},
		{"pcrs: {bank: [sha256, sha384]}", 1, "pcrs.bank is a list", "write sha256 or sha384"},
		{"pcrs: {bank: {}}", 1, "pcrs.bank", ""},
		{"pcrs: {bank: sha384, bank: sha256}", 1, `"bank" occurs twice in pcrs`, ""},
		{"pcrs: {bank: sha384, values: {7: " + strings.Repeat("ab", 32) + "}}", 1, "has 64 digits", "write 96 hexadecimal digits"},
		{"pcrs: {bank: sha384}\nevent_log: {forbidden_boot_loaders: " + strings.Repeat("ab", 32) + "}", 2, "has 64 digits", "write 96 hexadecimal digits"},
		{"pcrs: {quoted: [24]}", 1, `an entry of pcrs.quoted is "24"`, "from 0 to 23"},
		{"pcrs: {quoted: [07]}", 1, `an entry of pcrs.quoted is "07"`, "from 0 to 23"},
		{"pcrs: {quoted: []}", 1, "pcrs.quoted is an empty list", ""},
		{"pcrs: {values: {sha256: aa}}", 1, `a name in pcrs.values is "sha256"`, ""},
		{"pcrs:\n  values:\n    7: abc", 3, "is not hexadecimal", "write 64 hexadecimal digits"},
		{"pcrs:\n  values:\n    7: []", 3, "pcrs.values.7 is an empty list", ""},
		{"pcrs:\n  values:\n    7: abcd", 3, "has 4 digits", "write 64 hexadecimal digits"},
		{"key: {require: [decrypt]}", 1, "key both requires and forbids decrypt", "take it out"},
		{"key: {permit: [restricted]}", 1, `unknown entry "restricted" of key.permit`, ""},
		{"key: {permit: [fixedTPM]}", 1, `unknown entry "fixedTPM" of key.permit`, ""},
		{"key: {require: [fixedTpm]}", 1, `unknown entry "fixedTpm" of key.require`, "did you mean fixedTPM?"},
		{"sev_snp: {launch: {id_key_digests: []}}", 1, "lists nobody's firmware", "[azure]"},
		{"sev_snp: {launch: {min_guest_svn: 3}}", 1, "lists nobody's firmware", ""},
		{"sev_snp: {min_tcb: db18}", 1, `sev_snp.min_tcb is "db18"`, "16 hexadecimal digits"},
		{"sev_snp: {min_tcb: {milan: {boot_loader: 256}}}", 1, `sev_snp.min_tcb.milan.boot_loader is "256"`, "from 0 to 255"},
		{"sev_snp: {min_tcb: {milan: {fmc: 1}}}", 1, `unknown member "fmc" of sev_snp.min_tcb.milan`, "there are boot_loader, microcode, snp, tee"},
		{"sev_snp: {launch: {id_key_digests: [azure, " + none + "]}}", 1, "an entry of sev_snp.launch.id_key_digests is zero", "without an ID key"},
		{"sev_snp: {launch: {measurements: " + none + "}}", 1, "an entry of sev_snp.launch.measurements is zero", "take it out"},
		{"sev_snp: {min_tcb: {milan: {}}}", 1, "sev_snp.min_tcb.milan has no component", "boot_loader, microcode, snp, tee"},
		{"sev_snp: {min_tcb: {turin: {}, milan: {snp: 1}}}", 1, "sev_snp.min_tcb.turin has no component", "fmc"},
		{"sev_snp: {min_tcb: {}}", 1, "sev_snp.min_tcb has no product line", "leave it out"},
		{"sev_snp: {min_tcb: {rome: x}}", 1, `unknown member "rome"`, "there are genoa, milan, turin"},
		{"sev_snp: {accept_platform_info: 40}", 1, `sev_snp.accept_platform_info is "40"`, "such as 0x40"},
		{"ak_names: [" + strings.Repeat("ab", 34) + "]", 1, "does not begin with 000b", "the Name"},
		{"ak_names: []", 1, "ak_names is an empty list", ""},
		{"event_log: {db: []}", 1, "event_log.db is an empty list", ""},
		{"event_log: {command_lines: []}", 1, "event_log.command_lines is an empty list", ""},
		{"event_log: {bootloaders: x}", 1, `unknown member "bootloaders" of event_log`, "did you mean boot_loaders?"},
		{"tdx: {mrtd: [azure, " + none + "]}", 1, "an entry of tdx.mrtd is zero", "take it out"},
		{"tdx: {mrtd: []}", 1, "tdx.mrtd lists nobody's firmware", "[azure]"},
		{"tdx: {accepted_statuses: [Revoked]}", 1, `unknown entry "Revoked" of tdx.accepted_statuses`, "OutOfDate"},
		{"tdx: {accepted_statuses: [OutofDate]}", 1, `unknown entry "OutofDate"`, "did you mean OutOfDate?"},
		{"tdx: {accept_attributes: 0x1}", 1, "let the host debug the guest", "lowest eight bits"},
		{"tdx: {require_attributes: 0x10000001}", 1, "tdx.require_attributes has bits that let the host debug the guest", "lowest eight bits"},
		{"tdx: {require_attributes: 28}", 1, `tdx.require_attributes is "28"`, "such as 0x40"},
		{"tdx: {tcb_exceptions: [{fmspc: 00806f050000, component: 8}]}", 1, "lacks a member", "min_svn"},
		{"tdx: {tcb_exceptions: [{fmspc: 00806f050000, component: 17, min_svn: 1}]}", 1, `component is "17"`, "from 1 to 16"},
		{"tdx: {tcb_exceptions: {fmspc: x}}", 1, "tdx.tcb_exceptions is not a list", ""},
		{"sev_snp: {min_abi: 1}", 1, `sev_snp.min_abi is "1"`, "MAJOR.MINOR"},
		{"anchors: {amd: gone.pem}", 1, `anchors.amd: "gone.pem": file does not exist`, "PEM file"},
		{"a: &x 1\nb: *x", 1, `unknown member "a"`, ""},
		{"vm_id: &x abc", 1, "vm_id uses an anchor or alias", "write the value out"},
		{"<<: {vm_id: x}", 1, "a name in the policy", ""},
		{"? [a]\n: b", 1, "a name in the policy is not a single value", ""},
		{"- a", 1, "the policy is not a mapping", "NAME: VALUE"},
		{"vm_id: a\n---\nvm_id: b", 2, "a second document begins here", ""},
		{"vm_id: [a\n", 0, "not YAML", ""},
		{"key:\n\tforbid: []", 2, "a tab in the indentation", "spaces"},
		{"vm_id: ''", 1, "vm_id is empty", ""},
		{"vm_id: !!binary YQ==", 1, "vm_id is not a single value", ""},
	} {
		_, err := parse(t, tt.text)
		var fault *policyfile.Error
		if !errors.As(err, &fault) {
			t.Errorf("%q: %v", tt.text, err)
			continue
		}
		first := fault.Problems[0]
		if (tt.line != 0 && first.Line != tt.line) || !strings.Contains(first.What, tt.what) || !strings.Contains(first.Do, tt.do) {
			t.Errorf("%q: got %q, want line %d, %q, %q", tt.text, first, tt.line, tt.what, tt.do)
		}
		if !strings.HasPrefix(err.Error(), "policy.yaml: ") {
			t.Errorf("%q: %v", tt.text, err)
		}
	}
}

func TestAllFaultsAreToldAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse(t, "tea: x\nmax_age: y\nkey: {forbit: []}\n")
	var fault *policyfile.Error
	if !errors.As(err, &fault) || len(fault.Problems) != 3 {
		t.Errorf("%v", err)
	}
	_, err = parse(t, strings.Repeat("- x\n", 10)+"\n")
	if err == nil {
		t.Error("a list is accepted")
	}
}

func TestALargeFileIsRefused(t *testing.T) {
	t.Parallel()
	if _, err := policyfile.Parse("p", bytes.Repeat([]byte("#"), 1<<20), noFiles); err == nil {
		t.Error("accepted")
	}
	path := filepath.Join(t.TempDir(), "p.yaml")
	if err := os.WriteFile(path, bytes.Repeat([]byte("#"), 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := policyfile.Load(path); err == nil {
		t.Error("loaded")
	}
}

// FuzzParse: a policy that is accepted asks for all that is always asked for.
func FuzzParse(f *testing.F) {
	text, err := os.ReadFile(example)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	for _, seed := range []string{"", "tee: [sev-snp]", `{"pcrs":{"values":{"7":["` + strings.Repeat("ab", 32) + `"]}}}`, "a: &a [*a]", "anchors: {amd: [x]}", "\t", "key: {permit: [decrypt]}"} {
		f.Add([]byte(seed))
	}
	always := attest.DefaultPolicy()
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := policyfile.Parse("p", data, noFiles)
		if err != nil {
			return
		}
		required := strings.Join(p.Rules.Requires(), " ")
		for _, name := range append(attest.Floor(), always.Required...) {
			if p.Rules.CollateralNotRequired && (name == attest.CheckTDXCollateral || name == attest.CheckTDXTCB) {
				continue
			}
			if !strings.Contains(required, name) {
				t.Errorf("%q does not require %s", data, name)
			}
		}
		if missing := always.Key.RequiredAttributes &^ p.Rules.Key.RequiredAttributes; missing != 0 {
			t.Errorf("%q does not require attributes %#x", data, missing)
		}
	})
}

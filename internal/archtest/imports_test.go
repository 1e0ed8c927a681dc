package archtest_test

import (
	"slices"
	"strings"
	"testing"
)

// A place is where a package stands in the house: which packages of ours its product
// code may import, and why it stands there. Below names a tree: "acquire/..." is acquire
// and everything under it.
type place struct {
	may []string
	why string
}

const (
	leaf  = "a leaf: everybody may lean on it because it leans on nobody"
	wired = "the one place that knows all parts; they do not know each other"
	app   = "an app as anybody would write it: it has a client and no more"
)

// places is the import table, downstream last.
var places = map[string]place{
	"internal/secret":            {nil, leaf},
	"internal/shell":             {nil, leaf},
	"internal/owned":             {[]string{"internal/shell"}, "whose a file is, and the command that changes it"},
	"internal/statefile":         {[]string{"internal/owned"}, "files of the agent's own, held to the rule about owners"},
	"internal/cloud":             {nil, leaf},
	"internal/errinfo":           {nil, leaf},
	"internal/upstream":          {[]string{"internal/cloud", "internal/secret"}, "it must know the one address that no proxy is asked for, and what to hide of a service's words"},
	"internal/pemfile":           {[]string{"internal/shell"}, "what is wrong with a file, and the command that shows or changes it"},
	"internal/certs":             {[]string{"internal/pemfile"}, "one reader and one comparison of names for all packages that read certificates"},
	"internal/writequeue":        {nil, leaf},
	"internal/accounts":          {nil, leaf},
	"internal/auditsink":         {[]string{"internal/owned", "internal/shell", "internal/writequeue"}, "where records go, whatever is in them"},
	"internal/waiting":           {nil, leaf},
	"internal/confine":           {nil, leaf},
	"internal/inflight":          {nil, leaf},
	"internal/earlyanswer":       {nil, leaf},
	"internal/bridge":            {[]string{"agentapi/peer", "agentapi/wire", "internal/earlyanswer", "internal/forward"}, "a user's own server before the agent: it decides nothing, and links nothing of the agent"},
	"internal/forward":           {nil, "it passes requests on; who may make them is decided elsewhere"},
	"internal/tooltest":          {nil, leaf},
	"internal/nearby":            {nil, leaf},
	"internal/tcg":               {nil, leaf},
	"internal/archtest":          {nil, "it looks at the tree from outside"},
	"config":                     {[]string{"internal/cloud", "internal/nearby", "internal/owned"}, "the file format is no package's own; engine and daemon translate it into each Config. A file names clouds, hosts and audiences as Microsoft does"},
	"agentapi/wire":              {nil, "apps link it: what they would carry with it must be nothing"},
	"agentapi/peer":              {nil, "the caller's identity is the kernel's answer, not ours"},
	"attest/internal/strictjson": {nil, leaf},
	"attest/hcl":                 {[]string{"attest/internal/strictjson"}, "a parser: bytes in, values out"},
	"attest/eventlog":            {nil, "a parser: bytes in, values out"},
	"attest/tee":                 {[]string{"attest/internal/strictjson", "internal/certs", "internal/pemfile"}, "verifiers of foreign formats"},

	"tpm/internal/rc": {nil, leaf},
	"tpm/internal/device": {
		[]string{"tpm/internal/rc", "internal/tcg", "internal/waiting"},
		"the lower floor: the exclusive use of the TPM; it knows no keys, sessions or storage roots",
	},

	"tpm": {
		[]string{"tpm/internal/...", "internal/secret", "internal/pemfile", "internal/tcg"},
		"the device knows nothing of what its keys are for",
	},
	"signer":         {[]string{"tpm", "internal/statefile", "internal/waiting"}, "a key is a file and a TPM"},
	"signer/certreq": {[]string{"internal/certs"}, "pure: what a certificate says is computed, and no TPM is needed to test it"},
	"signer/keystore": {
		[]string{"signer", "signer/certreq", "tpm", "internal/statefile", "internal/pemfile", "internal/waiting"},
		"a key's life has one owner: nobody else writes, moves or deletes in a key's directory",
	},

	"attest": {
		[]string{"attest/eventlog", "attest/hcl", "attest/tee", "attest/internal/strictjson", "internal/certs", "internal/tcg"},
		"pure: a relying party that only verifies must not link device code",
	},
	"attest/judge/cases": {
		[]string{"attest", "attest/hcl", "attest/tee", "attest/internal/strictjson", "internal/certs"},
		"it puts evidence together from files, and leaves every decision to attest",
	},
	"attest/judge":      {[]string{"attest/judge/cases"}, "flags and lines of text only"},
	"attest/policyfile": {[]string{"attest", "attest/hcl", "attest/tee", "internal/nearby"}, "a file becomes a policy; a relying party that writes its policy in Go does not link it"},
	"attest/fleet":      {[]string{"attest", "attest/report"}, "many files and their order; what holds is decided in attest"},
	"attest/report":     {[]string{"attest", "attest/eventlog", "attest/tee"}, "what was found, for people and programs; it decides nothing"},
	"attest/collect": {
		[]string{"attest", "attest/eventlog", "attest/hcl", "attest/tee", "attest/internal/strictjson", "tpm", "internal/certs", "internal/cloud", "internal/upstream", "internal/waiting"},
		"gathers on the VM what attest then verifies",
	},
	"attest/formats": {[]string{"attest", "attest/tee"}, "other people's forms of what attest has found; it decides nothing"},
	"attest/maa": {
		[]string{"attest", "attest/eventlog", "attest/hcl", "attest/internal/strictjson", "internal/secret", "internal/upstream", "internal/waiting"},
		"one service's protocol over evidence that somebody else collected",
	},
	"attest/token": {
		[]string{"attest", "attest/collect", "attest/internal/strictjson", "attest/maa", "internal/inflight", "internal/secret"},
		"turns evidence into a token: the only place where the collector and a service meet",
	},

	"tlsbridge/certverify": {[]string{"internal/certs"}, "a parser: bytes in, values out; signers on both sides of the agent's socket are held to it"},
	"tlsbridge":            {[]string{"internal/earlyanswer", "internal/upstream", "tlsbridge/certverify"}, "it is given a certificate with a crypto.Signer inside, and asks no more"},
	"acquire/imds":         {[]string{"internal/cloud", "internal/secret", "internal/upstream", "internal/waiting"}, "one service's protocol"},
	"acquire/entra":        {[]string{"internal/cloud", "internal/secret", "internal/upstream", "internal/waiting"}, "one service's protocol"},
	"acquire/binding": {
		[]string{"acquire/imds", "internal/certs", "internal/inflight", "internal/statefile", "internal/secret", "internal/waiting"},
		"keys and attestation tokens come through small interfaces, so no TPM is needed to test a renewal",
	},
	"acquire": {
		[]string{"acquire/...", "tlsbridge", "internal/cloud", "internal/errinfo", "internal/inflight", "internal/secret", "internal/statefile", "internal/upstream", "internal/waiting"},
		"turns credentials into tokens; it must not know the caller (agentapi) nor what holds the key (tpm)",
	},

	"agentapi/appsecret": {[]string{"internal/secret", "internal/statefile"}, "a key and a format: who is calling comes as values, so that no socket is needed to test it"},
	"systemd":            {nil, leaf},
	"agentapi/policy":    {[]string{"agentapi/peer"}, "pure rules over the caller type, table-testable"},
	"agentapi": {
		[]string{"agentapi/...", "acquire", "tlsbridge/certverify", "internal/cloud", "internal/forward", "internal/owned", "internal/secret", "internal/waiting", "internal/writequeue"},
		"the door: it sees tokens through one interface and cannot reach the key behind them",
	},
	"client": {[]string{"agentapi/wire"}, "an app that wants a token must not link the agent"},

	"internal/advice":    {nil, leaf},
	"internal/launch":    {[]string{"agentapi/wire", "internal/shell"}, "pure: an endpoint and an environment go in, the environment of a program comes out"},
	"internal/inputfile": {[]string{"internal/advice", "internal/owned", "internal/secret", "internal/shell"}, "whose a file is that an operator hands over, and what is in it"},
	"internal/statedir": {
		[]string{"config", "signer/keystore", "tpm", "internal/accounts", "internal/advice", "internal/inputfile", "internal/owned", "internal/secret", "internal/statefile", "internal/waiting"},
		"the daemon and the commands open keys in one way; what is done with them is not its business",
	},
	"internal/engine": {
		[]string{
			"config", "tpm", "signer", "signer/certreq", "signer/keystore", "attest/...", "tlsbridge", "acquire/...",
			"internal/advice", "internal/certs", "internal/cloud", "internal/errinfo", "internal/inputfile", "internal/pemfile", "internal/secret", "internal/statedir", "internal/upstream", "internal/waiting",
		},
		"the one place where key, attestation and token services meet; it cannot see the caller (agentapi)",
	},
	"internal/forms": {
		[]string{"config", "tlsbridge", "acquire/...", "agentapi/wire"},
		"pure: what is known goes in, which forms of credentials work comes out",
	},
	"internal/rulebook": {
		[]string{"config", "agentapi/peer", "agentapi/policy", "internal/accounts"},
		"rules as somebody wrote them become rules as the agent applies them",
	},
	"internal/takeover": {[]string{"config", "agentapi/wire", "internal/accounts", "internal/cloud"}, "pure: a configuration goes in, the firewall's rules come out; what is loaded is compared with them"},
	"internal/setup":    {[]string{"config", "internal/advice"}, "pure: what was found and chosen goes in, a configuration with its reasons comes out"},
	"internal/imageprep": {
		[]string{"config", "tpm", "signer/keystore", "internal/advice", "internal/statedir", "internal/statefile"},
		"removes what the state directory has, and makes nothing",
	},
	"internal/inspect": {
		[]string{"config", "tpm", "acquire/imds", "agentapi/peer", "attest/collect", "attest/hcl", "internal/accounts", "internal/engine", "internal/setup", "internal/statedir"},
		"looks at a machine on which no agent runs yet; what follows from it is decided elsewhere",
	},
	"internal/keyring": {
		[]string{
			"config", "tpm", "signer", "signer/certreq", "signer/keystore", "acquire/...",
			"internal/advice", "internal/certs", "internal/engine", "internal/inputfile", "internal/pemfile", "internal/secret", "internal/statedir", "internal/statefile",
		},
		"works beside a running agent, or without one: it must not need the daemon",
	},
	"internal/doctor": {
		[]string{
			"config", "tpm", "signer", "signer/keystore", "attest", "acquire", "agentapi", "agentapi/peer", "agentapi/wire",
			"internal/accounts", "internal/advice", "internal/auditsink", "internal/engine", "internal/forms", "internal/inputfile", "internal/keyring", "internal/owned", "internal/rulebook", "internal/shell", "internal/statedir", "internal/statefile",
		},
		"looks at what the daemon would open, and opens it as the daemon would; it must not run one",
	},
	"internal/metrics": {
		[]string{"acquire", "agentapi", "agentapi/wire", "tpm"},
		"the one registry: the parts have small interfaces that it implements, and know nothing of Prometheus",
	},
	"internal/daemon": {
		[]string{
			"config", "systemd", "signer/certreq", "acquire/...", "agentapi/...", "internal/advice", "internal/engine", "internal/forms", "internal/metrics", "internal/rulebook", "internal/statedir", "internal/statefile",
			"internal/accounts", "internal/takeover", "internal/waiting",
		},
		wired,
	},
	"cmd/keyagent": {
		[]string{
			"config", "attest", "client", "agentapi/wire", "systemd", "internal/accounts", "internal/imageprep", "internal/inspect", "internal/setup", "internal/confine", "internal/bridge", "internal/advice", "internal/auditsink", "internal/daemon", "internal/doctor", "internal/engine", "internal/errinfo", "internal/keyring", "internal/rulebook", "internal/statedir", "internal/takeover",
			"attest/formats", "attest/policyfile", "attest/report", "attest/fleet", "internal/inputfile", "internal/launch", "internal/nearby", "internal/pemfile", "internal/shell", "internal/statefile", "internal/waiting", "internal/writequeue",
		},
		"flags and wiring only",
	},

	"scripts":                      {nil, "it runs the scripts beside it"},
	"test/e2e/escapes":             {nil, "it stands in the place of the agent's program, and needs nothing of it"},
	"test/e2e/load":                {nil, "a program of somebody's, which knows the socket and HTTP"},
	"test/e2e/tpmbridge":           {nil, "it passes bytes on between QEMU and a TPM, and knows neither's meaning"},
	"packaging":                    {[]string{"config"}, "it runs the scripts beside it, and reads the example with the package that the agent reads its file with"},
	"packaging/generate":           {nil, "a tool of the build: texts go in, texts come out"},
	"samples":                      {nil, "it follows the samples' READMEs from outside"},
	"samples/daemon-cert-bound/go": {[]string{"client"}, app},
	"samples/daemon-fic-bound/go":  {[]string{"client"}, app},
	"samples/verifier":             {[]string{"attest"}, "a relying party as anybody would write it: it has the verifier and no more"},
	"samples/exec/go":              {nil, "an app that does not know of keyagent"},
	"acquire/conformance":          {nil, "it looks at all requests for a token from outside, and holds nothing but tests"},

	"attest/internal/mutate":     {nil, "it runs the tests of other packages from outside"},
	"attest/internal/attesttest": {[]string{"attest", "attest/hcl", "attest/tee", "simulator/bootlog"}, "makes evidence for tests"},
	"internal/agenttest": {
		[]string{"config", "internal/advice", "internal/daemon", "internal/doctor", "internal/keyring", "internal/statedir", "simulator", "simulator/pki"},
		"puts a platform, the agent and its commands together for tests",
	},
	"signer/internal/signertest": {[]string{"signer", "tpm", "tpm/tpmtest", "simulator/vtpm", "internal/statefile"}, "makes keys, TPMs and authorities for tests"},
	"tpm/tpmtest":                {[]string{"tpm", "simulator/vtpm", "internal/tooltest", "internal/secret"}, "opens TPMs for tests"},
}

// One rule holds for all packages below simulator: a double that used the client's own types would
// make the client's own mistakes, so no package that it replaces in tests may be used.
var simulatorPlace = place{
	[]string{"simulator/...", "tpm", "attest/...", "config"},
	"Entra, IMDS and MAA are written from the protocol, not from our client of it",
}

// The demonstration is a user of the system, so it may use what users have.
var demoPlace = place{
	[]string{"simulator/...", "tpm", "signer", "attest/...", "client", "agentapi/wire", "internal/upstream"},
	"it stands where an app, an operator and a thief stand",
}

// testHelpers are packages that exist for tests, with why their product files count as
// test files.
var testHelpers = map[string]string{
	"attest/internal/attesttest": "makes evidence for tests",
	"signer/internal/signertest": "makes keys, TPMs and authorities for tests",
	"tpm/tpmtest":                "opens a TPM for a test",
	"internal/agenttest":         "sets the stage for tests of the agent and its commands",
	"internal/tooltest":          "finds the external programs that check our work in tests",
	"internal/archtest":          "holds nothing but tests",
	"acquire/conformance":        "holds nothing but tests",
}

func placeOf(dir string) (place, bool) {
	if p, ok := places[dir]; ok {
		return p, true
	}
	if dir == "simulator/demo" {
		return demoPlace, true
	}
	return simulatorPlace, within(dir, "simulator")
}

func (p place) allows(dir string) bool {
	return slices.ContainsFunc(p.may, func(may string) bool { return matches(dir, may) })
}

// matches says whether a folder or import path is the one that a pattern names, or, for a
// pattern that ends in "/...", lies in its tree.
func matches(dir, pattern string) bool {
	if tree, ok := strings.CutSuffix(pattern, "/..."); ok {
		return within(dir, tree)
	}
	return dir == pattern
}

func TestEachPackageImportsOnlyWhatItsPlaceAllows(t *testing.T) {
	for _, s := range sources(t) {
		p, known := placeOf(s.dir())
		if !known {
			t.Errorf("%s: package %s is not in the import table: decide its place, with a reason", s.path, s.dir())
			continue
		}
		for _, importPath := range s.imports() {
			dir, own := ours(importPath)
			if own && !s.isTest() && !p.allows(dir) {
				t.Errorf("%s imports %s; %s may import only %q: %s", s.path, dir, s.dir(), p.may, p.why)
			}
		}
	}
}

// Programs are started, not imported; and the simulator stays on its side of the wall.
func TestNobodyImportsProgramsNorProductCodeTheSimulator(t *testing.T) {
	all := sources(t)
	programs := map[string]bool{}
	for _, s := range all {
		programs[s.dir()] = programs[s.dir()] || s.isProgram()
	}
	for _, s := range all {
		for _, importPath := range s.imports() {
			dir, own := ours(importPath)
			if own && programs[dir] && dir != s.dir() {
				t.Errorf("%s imports the program %s", s.path, dir)
			}
			if own && within(dir, "simulator") && !s.servesTests() && !within(s.dir(), "simulator") {
				t.Errorf("%s imports %s; only tests and the simulator itself may", s.path, dir)
			}
		}
	}
}

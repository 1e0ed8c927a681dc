package attest_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/keyagent/keyagent/attest"
)

// schemaFile is what other programs check bundles with.
var schemaFile = filepath.Join("..", "docs", "evidence.schema.json")

func bundleSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	schema, err := jsonschema.NewCompiler().Compile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

// accepts reports whether the schema takes a document.
func accepts(t *testing.T, schema *jsonschema.Schema, document []byte) error {
	t.Helper()
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
	if err != nil {
		t.Fatal(err)
	}
	return schema.Validate(value)
}

// node is a part of the schema, as JSON.
type node struct {
	Const      string           `json:"const"`
	Ref        string           `json:"$ref"`
	Properties map[string]*node `json:"properties"`
	Defs       map[string]*node `json:"$defs"`
}

// The schema lists the members that the reader knows: neither more nor fewer.
func TestTheSchemaListsTheMembersOfABundle(t *testing.T) {
	text, err := os.ReadFile(schemaFile)
	if err != nil {
		t.Fatal(err)
	}
	var schema node
	if err := json.Unmarshal(text, &schema); err != nil {
		t.Fatal(err)
	}
	var listed []string
	var list func(n *node, path string)
	list = func(n *node, path string) {
		for name, below := range n.Properties {
			listed = append(listed, path+name)
			if def, ok := strings.CutPrefix(below.Ref, "#/$defs/"); ok {
				below = schema.Defs[def]
			}
			list(below, path+name+".")
		}
	}
	list(&schema, "")
	slices.Sort(listed)
	if diff := cmp.Diff(attest.WireMembers(), listed); diff != "" {
		t.Errorf("members of the reader (-) and of the schema (+):\n%s", diff)
	}
	if got := schema.Properties["format"].Const; got != attest.Format {
		t.Errorf("format %q, want %q", got, attest.Format)
	}
	if !bytes.Contains(text, []byte(attest.MediaType)) {
		t.Error("the media type is not named")
	}
}

// What the machine makes, the schema takes, on both platforms.
func TestMadeBundlesFitTheSchema(t *testing.T) {
	schema := bundleSchema(t)
	for name, e := range madeBundles(t) {
		t.Run(name, func(t *testing.T) {
			bundle, err := e.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := accepts(t, schema, bundle); err != nil {
				t.Error(err)
			}
		})
	}
}

// Where reader and schema can both decide, they decide alike.
func TestSchemaAndReaderAgree(t *testing.T) {
	schema := bundleSchema(t)
	for name, tt := range map[string]struct {
		document string
		want     bool
	}{
		"the least":              {`{"format":"keyagent-evidence/1"}`, true},
		"a nonce":                {`{"format":"keyagent-evidence/1","nonce":"AAAAAAAAAAAAAAAAAAAAAA"}`, true},
		"one byte":               {`{"format":"keyagent-evidence/1","certify":"AA"}`, true},
		"two bytes":              {`{"format":"keyagent-evidence/1","certify":"AAA"}`, true},
		"a PCR":                  {`{"format":"keyagent-evidence/1","pcrs":{"23":"` + strings.Repeat("A", 43) + `"}}`, true},
		"an empty audience":      {`{"format":"keyagent-evidence/1","audience":""}`, true},
		"an empty list":          {`{"format":"keyagent-evidence/1","vcek_chain":[]}`, true},
		"an empty object":        {`{"format":"keyagent-evidence/1","tdx_collateral":{}}`, true},
		"no format":              {`{}`, false},
		"another format":         {`{"format":"keyagent-evidence/2"}`, false},
		"a member that is none":  {`{"format":"keyagent-evidence/1","nonces":"AAAA"}`, false},
		"another case":           {`{"format":"keyagent-evidence/1","Nonce":"AAAA"}`, false},
		"padding":                {`{"format":"keyagent-evidence/1","certify":"AA=="}`, false},
		"another alphabet":       {`{"format":"keyagent-evidence/1","certify":"A/+A"}`, false},
		"bits after the end":     {`{"format":"keyagent-evidence/1","certify":"AB"}`, false},
		"bits after the end, 2":  {`{"format":"keyagent-evidence/1","certify":"AAB"}`, false},
		"a character too many":   {`{"format":"keyagent-evidence/1","certify":"AAAAA"}`, false},
		"an empty value":         {`{"format":"keyagent-evidence/1","certify":""}`, false},
		"a long nonce":           {`{"format":"keyagent-evidence/1","nonce":"` + strings.Repeat("A", 87) + `"}`, false},
		"a long statement":       {`{"format":"keyagent-evidence/1","quote":"` + strings.Repeat("A", 1367) + `"}`, false},
		"PCR 24":                 {`{"format":"keyagent-evidence/1","pcrs":{"24":"` + strings.Repeat("A", 43) + `"}}`, false},
		"PCR 01":                 {`{"format":"keyagent-evidence/1","pcrs":{"01":"` + strings.Repeat("A", 43) + `"}}`, false},
		"a short PCR":            {`{"format":"keyagent-evidence/1","pcrs":{"1":"AAAA"}}`, false},
		"no PCRs":                {`{"format":"keyagent-evidence/1","pcrs":{}}`, false},
		"the report twice":       {`{"format":"keyagent-evidence/1","hcl_report":"AAAA","runtime_claims":"AAAA"}`, false},
		"seven certificates":     {`{"format":"keyagent-evidence/1","ak_intermediates":["AA","AA","AA","AA","AA","AA","AA"]}`, false},
		"a list for a text":      {`{"format":"keyagent-evidence/1","quote":["AAAA"]}`, false},
		"null":                   {`{"format":"keyagent-evidence/1","quote":null}`, false},
		"no object":              {`["keyagent-evidence/1"]`, false},
		"an unknown part of TDX": {`{"format":"keyagent-evidence/1","tdx_collateral":{"tcb":"AAAA"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := attest.Parse([]byte(tt.document))
			if (err == nil) != tt.want {
				t.Errorf("reader: %v, want %v", err, tt.want)
			}
			if err := accepts(t, schema, []byte(tt.document)); (err == nil) != tt.want {
				t.Errorf("schema: %v, want %v", err, tt.want)
			}
		})
	}
}

// madeBundles are bundles of both platforms, with and without the paravisor's wrapper, as the
// machine makes them.
func madeBundles(t *testing.T) map[string]*attest.Evidence {
	t.Helper()
	made := map[string]*attest.Evidence{}
	for name, x := range map[string]*trial{"SEV-SNP": newTrial(t), "TDX": newTDXTrial(t)} {
		e := x.Evidence(t, attest.Challenge{Nonce: bytes.Repeat([]byte{1}, 32), Audience: "https://verifier.example/ä"})
		made[name] = e
		report, err := e.HardwareReport()
		if err != nil {
			t.Fatal(err)
		}
		unwrapped := *e
		unwrapped.HCLReport, unwrapped.RuntimeClaims = nil, report.Claims
		if name == "SEV-SNP" {
			unwrapped.SNPReport = report.Hardware
		}
		made[name+" unwrapped"] = &unwrapped
	}
	return made
}
